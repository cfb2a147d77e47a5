import numpy as np
import pytest
import torch

from nnunetv2_airway.losses.functional import union_loss

SMALL = dict(p=[0.1, 0.5, 0.9, 0.2], g=[0, 1, 1, 0], w=[1, 2, 0.5, 1])


def column(values):
    return torch.tensor(values, dtype=torch.double).view(1, 1, 1, 1, -1)


@pytest.mark.parametrize(
    ("options", "weighted", "expected"),
    [
        (dict(alpha=0.5, beta=0.5), False, 1 - (1.4 + 1) / (0.5 * 1.7 + 0.5 * 2 + 1)),
        (dict(alpha=0.1, beta=0.9, smooth=0.5), False, 1 - (1.4 + 0.5) / (0.17 + 1.8 + 0.5)),
        (dict(alpha=1, beta=1, root=2), False, 1 - (0.25 + 0.81 + 1) / (1.7 + 2 + 1)),
        (dict(alpha=0.2, beta=0.8), True, 1 - (2 * 0.5 + 0.5 * 0.9 + 1) / (0.2 * 1.75 + 0.8 * 2.5 + 1)),
    ],
)
def test_by_hand(options, weighted, expected):
    weight = column(SMALL["w"]) if weighted else None
    assert union_loss(column(SMALL["p"]), column(SMALL["g"]), weight, **options).item() == pytest.approx(expected)


def test_agrees_with_the_authors_code(reference):
    with np.load(reference / "losses.npz") as file:
        values = {name: torch.from_numpy(file[name]).double() for name in file}
    p, g = values["pred"].requires_grad_(), values["target"]
    weight = torch.where(g > 0, values["foreground_weight"], 1.0)
    # the published Dice is (2 sum p g + 1) / (sum p + sum g + 1): twice our numerator and denominator with 1/2
    ours = {
        "dice": union_loss(p, g, alpha=0.5, beta=0.5, smooth=0.5),
        "tversky_alpha0.05": union_loss(p, g, alpha=0.05, beta=0.95),
        "root_tversky_alpha0.1_root0.7": union_loss(p, g, alpha=0.1, beta=0.9, root=0.7, epsilon=1e-4),
        "general_union_alpha0.1_root0.7": union_loss(p, g, weight, alpha=0.1, beta=0.9, root=0.7, epsilon=1e-4),
    }
    for name, loss in ours.items():
        assert loss.item() == pytest.approx(values[name].item(), abs=1e-9), name
    gradient = torch.autograd.grad(ours["general_union_alpha0.1_root0.7"], p)[0]
    torch.testing.assert_close(gradient, values["general_union_grad"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("root", [0.7, 1.0, 2.0])
def test_gradients(root):
    torch.manual_seed(0)
    p = torch.rand(2, 1, 2, 3, 2, dtype=torch.double, requires_grad=True)
    g, w = (torch.rand_like(p) > 0.5).double(), torch.rand_like(p.detach())
    assert torch.autograd.gradcheck(
        lambda p: union_loss(p, g, w, alpha=0.2, beta=0.8, root=root, epsilon=1e-4), p, atol=1e-7
    )


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("g", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_the_edges_in_float32_at_least(p, g, dtype):
    prob = torch.full((1, 1, 64, 64, 64), p, dtype=dtype, requires_grad=True)
    loss = union_loss(prob, torch.full_like(prob, g), alpha=0.2, beta=0.8, root=0.7, epsilon=1e-4)
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert torch.autograd.grad(loss, prob)[0].isfinite().all()
