import pytest
import torch
import torch.nn.functional as F

from nnunetv2_airway.architectures.gates import norm_and_gates

EPS = 1e-5


def plain(x, weight, gates):
    """Zheng eqs. 4 to 6, one after the other."""
    x = F.leaky_relu(F.instance_norm(x, eps=EPS), 0.01)
    for row in weight[:gates]:
        x = x * torch.sigmoid(F.conv3d(x, row.view(1, -1, 1, 1, 1)))
    return x, F.conv3d(x, weight[gates:, :, None, None, None])


@pytest.mark.parametrize("gates", [1, 2])
@pytest.mark.parametrize("channels", [0, 2])
def test_values_and_gradients_are_those_of_one_step_after_the_other(gates, channels):
    torch.manual_seed(0)
    x = (torch.randn(2, 5, 3, 4, 6, dtype=torch.double) * 3 + 1).requires_grad_()
    weight = torch.randn(gates + channels, 5, dtype=torch.double, requires_grad=True)
    ours = norm_and_gates(x, weight, gates=gates, eps=EPS)
    wanted = plain(x, weight, gates) if channels else (plain(x, torch.cat((weight, weight)), gates)[0], ours[1])
    factors = [torch.randn_like(part) for part in ours]
    for found, expected in zip(ours, wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    gradients = (
        torch.autograd.grad(
            sum((part * factor).sum() for part, factor in zip(parts, factors, strict=True) if part.numel()), (x, weight)
        )
        for parts in (ours, wanted)
    )
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    assert torch.autograd.gradcheck(lambda a, b: norm_and_gates(a, b, gates=gates, eps=EPS), (x, weight))


def test_bfloat16_is_near_float32():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 8, 6, 8, 10) + 2, torch.randn(4, 8)
    for found, expected in zip(
        norm_and_gates(x.bfloat16(), weight, gates=2, eps=EPS), plain(x, weight, 2), strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert (found - expected).norm() < 0.02 * expected.norm()
