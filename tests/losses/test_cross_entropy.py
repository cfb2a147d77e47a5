import pytest
import torch
import torch.nn.functional as F

from nnunetv2_airway.losses.cross_entropy import cross_entropy_from_sums, cross_entropy_sums

RANDOM = torch.Generator().manual_seed(0)
SHAPE = (2, 1, 3, 4, 5)
Z = torch.randn(SHAPE, generator=RANDOM, dtype=torch.double) * 3
G = (torch.rand(SHAPE, generator=RANDOM) > 0.7).double()
W = torch.rand(SHAPE, generator=RANDOM, dtype=torch.double)


def loss(gamma=0.0, weight=None, annotated=None, **options):
    return cross_entropy_from_sums(cross_entropy_sums(Z, G, weight, annotated, gamma=gamma), **options).item()


def test_plain_and_weighted_cross_entropy():
    assert loss() == pytest.approx(F.binary_cross_entropy_with_logits(Z, G).item())
    assert loss(weight=W) == pytest.approx(F.binary_cross_entropy_with_logits(Z, G, W).item())


def test_balanced_classes_count_alike():
    expected = sum(F.binary_cross_entropy_with_logits(Z[value == G], G[value == G]).item() for value in (0, 1)) / 2
    assert loss(balanced=True) == pytest.approx(expected)


def test_focal_by_its_definition():
    p = torch.where(G > 0, torch.sigmoid(Z), 1 - torch.sigmoid(Z))
    factor = torch.where(G > 0, 0.75, 0.25)
    assert loss(gamma=2, alpha=0.75) == pytest.approx((-factor * (1 - p) ** 2 * p.log()).mean().item())
    assert loss(gamma=0.5, weight=W) == pytest.approx((-W * (1 - p) ** 0.5 * p.log()).mean().item())


@pytest.mark.parametrize("options", [{}, {"balanced": True}, {"alpha": 0.3}])
def test_ignored_voxels_count_nowhere(options):
    annotated = torch.ones(SHAPE)
    annotated[:, :, 1:] = 0
    part = cross_entropy_sums(Z[:, :, :1], G[:, :, :1], gamma=2)
    assert loss(gamma=2, annotated=annotated, **options) == pytest.approx(
        cross_entropy_from_sums(part, **options).item()
    )


@pytest.mark.parametrize("g", [0.0, 1.0])
@pytest.mark.parametrize("z", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_finite_where_the_network_is_certain(z, g, gamma):
    logits = torch.full((1, 1, 2, 2, 2), z, requires_grad=True)
    for balanced in (False, True):
        sums = cross_entropy_sums(logits, torch.full_like(logits, g), gamma=gamma)
        result = cross_entropy_from_sums(sums, balanced=balanced)
        (gradient,) = torch.autograd.grad(result, logits)
        assert result.isfinite() and gradient.isfinite().all()
