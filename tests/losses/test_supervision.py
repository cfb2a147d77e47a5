import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from scipy import ndimage

from nnunetv2_airway.losses.functional import local_imbalance_weight, union_loss
from nnunetv2_airway.losses.rows import (
    DICE,
    DICE_AND_CROSS_ENTROPY,
    DICE_CROSS_ENTROPY_AND_THIN_DICE,
    FOCAL,
    GENERALIZED_DICE,
    SKELETON_RECALL,
    TANG,
    TANG_ROOT,
    WEIGHTED_CROSS_ENTROPY,
)
from nnunetv2_airway.losses.supervision import SupervisionLoss
from nnunetv2_airway.losses.weights import CENTERLINE_DISTANCE, INVERSE_COMPONENT, LOCAL_IMBALANCE, THIN_AIRWAYS

RANDOM = torch.Generator().manual_seed(0)
Z = [torch.randn(2, 1, 3, 4, 5, generator=RANDOM) for _ in range(2)]
G = (torch.rand(2, 1, 3, 4, 5, generator=RANDOM) > 0.6).short()
NUMBERS = torch.randint(1, 4, G.shape, generator=RANDOM)
CLOSENESS = torch.randint(0, 256, G.shape, generator=RANDOM).to(torch.uint8)
BOTH = (LOCAL_IMBALANCE, CENTERLINE_DISTANCE)
MAPS = ("centerline",)


def two_heads(z):
    return torch.cat((torch.zeros_like(z), z), 1)


def expected(weight=None):
    return sum(union_loss(z.sigmoid(), G, weight, alpha=0.5, beta=0.5).item() for z in Z)


def test_both_groups_count_alike_for_labels():
    loss = SupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=False)
    assert loss([two_heads(z) for z in Z], [G]).item() == pytest.approx(expected())
    assert loss(two_heads(Z[0]), G).item() == pytest.approx(union_loss(Z[0].sigmoid(), G, alpha=0.5, beta=0.5).item())


def test_the_foreground_label_need_not_be_one():
    loss = SupervisionLoss(DICE, foreground_label=3, ignore_label=None, ddp=False)
    assert loss([two_heads(z) for z in Z], [G * 3]).item() == pytest.approx(expected())


def test_region():
    loss = SupervisionLoss(DICE, foreground_label=None, ignore_label=None, ddp=False)
    assert loss(Z, [G.bool()]).item() == pytest.approx(expected())


@pytest.mark.parametrize("region", [False, True])
def test_ignored_voxels_weigh_nothing(region):
    ignored = torch.rand(G.shape) > 0.5
    loss = SupervisionLoss(DICE, foreground_label=None if region else 1, ignore_label=2, ddp=False)
    target = torch.cat((G.bool(), ignored), 1) if region else torch.where(ignored, 2, G)
    outputs = [z.clone().requires_grad_() for z in Z]
    result = loss(outputs if region else [two_heads(z) for z in outputs], [target])
    assert result.item() == pytest.approx(expected(weight=(~ignored).float()))
    for gradient in torch.autograd.grad(result, outputs):
        assert (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).any()


def weighted(exponent=2.5):
    """Tang eqs. 3 to 5, the drawn exponent at the middle of its range."""
    return local_imbalance_weight(G, exponent=exponent) + G * (CLOSENESS.double() / 255) ** 2


@pytest.mark.parametrize(
    ("row", "options"),
    [(TANG, dict(alpha=1, beta=1, root=2)), (TANG_ROOT, dict(alpha=0.2, beta=0.8, root=0.7, epsilon=1e-4))],
)
def test_weights_add_up_and_count_in_both_groups(row, options):
    loss = SupervisionLoss(row, BOTH, maps=MAPS, foreground_label=1, ignore_label=None, ddp=False).eval()
    found = loss([two_heads(z) for z in Z], [G, CLOSENESS]).item()
    assert found == pytest.approx(sum(union_loss(z.sigmoid(), G, weighted(), **options).item() for z in Z), abs=1e-5)


def test_ignored_voxels_weigh_nothing_under_weights():
    ignored = torch.rand(G.shape) > 0.5
    loss = SupervisionLoss(TANG, BOTH, maps=MAPS, foreground_label=1, ignore_label=2, ddp=False)
    z = Z[0].clone().requires_grad_()
    gradient = torch.autograd.grad(loss(two_heads(z), [torch.where(ignored, 2, G), CLOSENESS]), z)[0]
    assert (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).any()


def test_exponents_are_drawn_for_each_patch_in_training_only():
    loss = SupervisionLoss(TANG, (LOCAL_IMBALANCE,), foreground_label=1, ignore_label=None, ddp=False)
    mask = torch.zeros(200, 1, 1, 7, 7)
    mask[:, :, :, :4] = 1  # a foreground rate of 4 / 7 at the middle: neither clipped nor 1
    drawn = loss.weight(mask > 0, None, {})[:, 0, 0, 3, 3]
    low, high = (local_imbalance_weight(mask[:1], exponent=r)[0, 0, 0, 3, 3] for r in (3.0, 2.0))
    assert (drawn >= low).all() and (drawn <= high).all() and len(drawn.unique()) > 150
    exponents = torch.log((drawn - 0.05) / 0.95) / torch.log(
        (local_imbalance_weight(mask[:1], exponent=1.0)[0, 0, 0, 3, 3] - 0.05) / 0.95
    )
    assert 2 <= exponents.min() < 2.1 and 2.9 < exponents.max() <= 3.0001 and abs(exponents.mean() - 2.5) < 0.1
    loss.eval()
    assert torch.equal(loss.weight(mask > 0, None, {}), loss.weight(mask > 0, None, {}))


def test_outputs_weigh_as_told_and_those_of_weight_0_are_left_out():
    loss = SupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=False, output_weights=[0.75, 0.0])
    broken = torch.full_like(two_heads(Z[1]), float("nan"))
    found = loss([two_heads(Z[0]), broken], [G])
    assert found.item() == pytest.approx(0.75 * union_loss(Z[0].sigmoid(), G, alpha=0.5, beta=0.5).item())


def stock_loss() -> DC_and_CE_loss:
    """nnU-Net's, as its trainer makes it with ``batch_dice``; its Dice is the negative one."""
    options = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(options, {}, dice_class=MemoryEfficientSoftDiceLoss)


def test_skeleton_recall_by_its_definition():
    """nnU-Net's Dice and cross-entropy with batch_dice, and recall on the centerline dilated twice within the label."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 2, 8, 9, 10), generator=rng, dtype=torch.double)
    target = torch.zeros((2, 1, 8, 9, 10), dtype=torch.long)
    target[0, :, 2:6, 3:6, 1:9] = target[1, :, 1:4, 2:7, 2:8] = 1
    line = torch.zeros_like(target)
    line[0, 0, 4, 4, 2:8] = line[1, 0, 2, 4, 3:5] = 1
    tube = np.stack([ndimage.binary_dilation(each, iterations=2) for each in line[:, 0].numpy()])
    tube &= target[:, 0].numpy() > 0
    p = torch.softmax(logits, 1)[:, 1].numpy()
    recall = (p[tube].sum() + 1e-5) / (tube.sum() + 1e-5)
    stock = stock_loss()
    options = {"foreground_label": 1, "ignore_label": None, "ddp": False, "maps": ("line",)}
    weights = [0.75, 0.25]
    loss = SupervisionLoss(SKELETON_RECALL, output_weights=weights, **options)
    low = logits[..., ::2, ::2, ::2]
    low_target = target[..., ::2, ::2, ::2]
    found = loss([logits], [target, line.to(torch.uint8)])
    assert float(found) == pytest.approx(0.75 * (float(stock(logits, target)) + 1 + 1 - recall), rel=1e-6)
    wide = np.stack([ndimage.binary_dilation(each, iterations=2) for each in line[:, 0].numpy()])
    nearest = F.interpolate(torch.from_numpy(wide)[:, None].double(), low.shape[2:], mode="nearest-exact")
    low_tube = (nearest > 0) & (low_target > 0)
    low_p = torch.softmax(low, 1)[:, 1:]
    low_recall = (low_p[low_tube].sum() + 1e-5) / (low_tube.sum() + 1e-5)
    both = loss([logits, low], [target, low_target, line.to(torch.uint8)])
    expected = float(found) + 0.25 * (float(stock(low, low_target)) + 2 - float(low_recall))
    assert float(both) == pytest.approx(expected, rel=1e-6)


def test_weights_count_in_the_cross_entropy_alone():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 2, 6, 7, 8), generator=rng, dtype=torch.double)
    target = (torch.rand((2, 1, 6, 7, 8), generator=rng) > 0.7).long()
    closeness = torch.randint(0, 256, target.shape, generator=rng).to(torch.uint8)
    options = {"foreground_label": 1, "ignore_label": None, "ddp": False, "maps": ("centerline",)}
    found = SupervisionLoss(DICE_AND_CROSS_ENTROPY, (LOCAL_IMBALANCE, CENTERLINE_DISTANCE), **options).eval()
    stock = stock_loss()
    maps = {"centerline": closeness}
    w = sum(row.weigh(target, maps, sample=False) for row in (LOCAL_IMBALANCE, CENTERLINE_DISTANCE)).double()
    each = F.cross_entropy(logits, target[:, 0], reduction="none")[:, None]
    plain = float(stock(logits, target)) + 1
    weighted = float((w * each).sum() / w.numel())
    assert float(found(logits, [target, closeness])) == pytest.approx(plain - float(each.mean()) + weighted, rel=1e-6)


def test_thin_airways_have_a_dice_of_their_own_at_full_resolution():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 2, 9, 10, 12), generator=rng, dtype=torch.double)
    target = (torch.rand((2, 1, 9, 10, 12), generator=rng) > 0.9).long()
    target[:, :, 2:6, 2:7, 2:6] = 1
    thin = np.ones(target.shape, bool)
    thin[:, :, 1:7, 1:8, 1:7] = False  # all that is thick, with a voxel around it
    low, low_target = logits[..., ::2, ::2, ::2], target[..., ::2, ::2, ::2]
    loss = SupervisionLoss(
        DICE_CROSS_ENTROPY_AND_THIN_DICE, (THIN_AIRWAYS,), foreground_label=1, ignore_label=None, ddp=False,
        output_weights=(0.75, 0.25),
    )  # fmt: skip
    p, g = torch.softmax(logits, 1)[:, 1:][thin], target[thin]
    assert torch.equal(THIN_AIRWAYS.weigh(target, {}, sample=True).bool(), torch.from_numpy(thin))
    dice = 2 * (p * g).sum() / (p + g).sum()
    stock = stock_loss()  # its Dice is negative
    expected = 0.75 * (stock(logits, target) + 2 - dice) + 0.25 * (stock(low, low_target) + 1)
    assert float(loss([logits, low], [target, low_target])) == pytest.approx(float(expected), rel=1e-5)


def test_float32_under_autocast():
    loss = SupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=False)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss([two_heads(z) for z in Z], [G])
    assert result.dtype == torch.float32 and result.item() == pytest.approx(expected(), abs=1e-6)


CRITERIA = (
    (TANG, BOTH),
    (FOCAL, (INVERSE_COMPONENT,)),
    (WEIGHTED_CROSS_ENTROPY, ()),
    (GENERALIZED_DICE, (LOCAL_IMBALANCE,)),
)


def criterion_of(row, weights, *, ddp: bool) -> SupervisionLoss:
    maps = ("centerline", "components")
    return SupervisionLoss(row, weights, foreground_label=1, ignore_label=None, ddp=ddp, maps=maps).eval()


def rank_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine, found = slice(rank, rank + 1), []
    for row, weights in CRITERIA:
        logits = [z[mine].clone().requires_grad_() for z in Z]
        targets = [G[mine], CLOSENESS[mine], NUMBERS[mine]]
        result = criterion_of(row, weights, ddp=True)([two_heads(z) for z in logits], targets)
        result.backward()
        found.append((result.item(), [z.grad for z in logits]))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_sums_run_over_all_ranks(tmp_path):
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for index, (row, weights) in enumerate(CRITERIA):
        whole = [z.clone().requires_grad_() for z in Z]
        together = criterion_of(row, weights, ddp=False)([two_heads(z) for z in whole], [G, CLOSENESS, NUMBERS])
        together.backward()
        for rank in range(2):
            value, gradients = found[rank][index]
            assert value == pytest.approx(together.item(), abs=1e-6), row.name
            for mine, all_of_it in zip(gradients, whole, strict=True):
                # DDP then averages over the two ranks, which takes the factor of two back
                torch.testing.assert_close(mine / 2, all_of_it.grad[rank : rank + 1], atol=1e-7, rtol=1e-5)


if __name__ == "__main__":  # one rank, started by the test above
    rank_of_two(int(sys.argv[1]), sys.argv[2])
