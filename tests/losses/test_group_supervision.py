import pytest
import torch

from nnunetv2_airway.losses.functional import union_loss
from nnunetv2_airway.losses.group_supervision import DICE, GroupSupervisionLoss

torch.manual_seed(0)
Z = [torch.randn(2, 1, 3, 4, 5) for _ in range(2)]
G = (torch.rand(2, 1, 3, 4, 5) > 0.6).short()


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
