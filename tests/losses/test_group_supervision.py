import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from nnunetv2_airway.losses.functional import union_loss
from nnunetv2_airway.losses.group_supervision import DICE, GroupSupervisionLoss

RANDOM = torch.Generator().manual_seed(0)
Z = [torch.randn(2, 1, 3, 4, 5, generator=RANDOM) for _ in range(2)]
G = (torch.rand(2, 1, 3, 4, 5, generator=RANDOM) > 0.6).short()


def two_heads(z):
    return torch.cat((torch.zeros_like(z), z), 1)


def expected(weight=None):
    return sum(union_loss(z.sigmoid(), G, weight, alpha=0.5, beta=0.5).item() for z in Z)


def test_both_groups_count_alike_for_labels():
    loss = GroupSupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=False)
    assert loss([two_heads(z) for z in Z], [G]).item() == pytest.approx(expected())
    assert loss(two_heads(Z[0]), G).item() == pytest.approx(union_loss(Z[0].sigmoid(), G, alpha=0.5, beta=0.5).item())


def test_the_foreground_label_need_not_be_one():
    loss = GroupSupervisionLoss(DICE, foreground_label=3, ignore_label=None, ddp=False)
    assert loss([two_heads(z) for z in Z], [G * 3]).item() == pytest.approx(expected())


def test_region():
    loss = GroupSupervisionLoss(DICE, foreground_label=None, ignore_label=None, ddp=False)
    assert loss(Z, [G.bool()]).item() == pytest.approx(expected())


@pytest.mark.parametrize("region", [False, True])
def test_ignored_voxels_weigh_nothing(region):
    ignored = torch.rand(G.shape) > 0.5
    loss = GroupSupervisionLoss(DICE, foreground_label=None if region else 1, ignore_label=2, ddp=False)
    target = torch.cat((G.bool(), ignored), 1) if region else torch.where(ignored, 2, G)
    outputs = [z.clone().requires_grad_() for z in Z]
    result = loss(outputs if region else [two_heads(z) for z in outputs], [target])
    assert result.item() == pytest.approx(expected(weight=(~ignored).float()))
    for gradient in torch.autograd.grad(result, outputs):
        assert (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).any()


def test_float32_under_autocast():
    loss = GroupSupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=False)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss([two_heads(z) for z in Z], [G])
    assert result.dtype == torch.float32 and result.item() == pytest.approx(expected(), abs=1e-6)


def rank_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    loss = GroupSupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=True)
    mine = [z[rank : rank + 1].clone().requires_grad_() for z in Z]
    result = loss([two_heads(z) for z in mine], [G[rank : rank + 1]])
    result.backward()
    torch.save((result.item(), [z.grad for z in mine]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_sums_run_over_all_ranks(tmp_path):
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    whole = [z.clone().requires_grad_() for z in Z]
    loss = GroupSupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=False)
    loss([two_heads(z) for z in whole], [G]).backward()
    for rank in range(2):
        value, gradients = torch.load(tmp_path / f"{rank}.pt")
        assert value == pytest.approx(expected(), abs=1e-6)
        for mine, all_of_it in zip(gradients, whole, strict=True):
            # DDP then averages over the two ranks, which takes the factor of two back
            torch.testing.assert_close(mine / 2, all_of_it.grad[rank : rank + 1], atol=1e-7, rtol=1e-5)


if __name__ == "__main__":  # one rank, started by the test above
    rank_of_two(int(sys.argv[1]), sys.argv[2])
