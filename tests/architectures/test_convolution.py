import pytest
import torch
from torch import nn

from nnunetv2_airway.architectures.convolution import Conv3d, use_conv3d


def gradients(conv, x, factor, *, bfloat16=False):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        result = conv(x)
    return result, *torch.autograd.grad((result * factor).sum(), (x, *conv.parameters()))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(8, 6, 10), (2, 4, 6), (5, 6, 7)])
def test_values_and_gradients_are_pytorch_s(size, dilation):
    torch.manual_seed(0)
    ours = Conv3d(3, 4, 3, padding=dilation, dilation=dilation)
    stock = nn.Conv3d(3, 4, 3, padding=dilation, dilation=dilation)
    stock.load_state_dict(ours.state_dict())
    x, factor = torch.randn(2, 3, *size), torch.randn(2, 4, *size)
    for found, expected in zip(gradients(ours, x, factor), gradients(stock, x, factor), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), stock(x), atol=0, rtol=0)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_in_bfloat16_are_near_those_in_float32(depth, dilation):
    """OneDNN's are not for volumes of two planes, whatever lies in the memory that it takes."""
    torch.manual_seed(0)
    conv = Conv3d(16, 16, 3, padding=dilation, dilation=dilation)
    x, factor = torch.randn(1, 16, depth, 4, 4), torch.randn(1, 16, depth, 4, 4)
    expected = gradients(conv, x, factor)
    for _ in range(5):
        torch.full((16 * 16 * 27,), 1e30)  # memory that is free again
        for found, wanted in zip(gradients(conv, x, factor, bfloat16=True), expected, strict=True):
            assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_the_convolutions_of_a_network_are_replaced():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Sequential(nn.Conv3d(2, 2, 1), nn.ConvTranspose3d(2, 2, 2)))
    before = network.state_dict()
    assert use_conv3d(network) is network
    assert [type(module) for module in network.modules() if isinstance(module, nn.Conv3d)] == [Conv3d, Conv3d]
    assert list(network.state_dict()) == list(before)


@pytest.mark.parametrize("size", [(4, 6, 8), (32, 32, 24)])
def test_of_both_is_that_of_the_concatenation(size):
    torch.manual_seed(0)
    conv = Conv3d(48, 4, 3, padding=1)
    x, skip, factor = (torch.randn(1, channels, *size) for channels in (32, 16, 4))
    found = torch.autograd.grad((conv.of_both(x, skip) * factor).sum(), conv.weight)[0]
    expected = torch.autograd.grad((conv(torch.cat((x, skip), 1)) * factor).sum(), conv.weight)[0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
