import pytest
import torch
import torch.nn.functional as F

from nnunetv2_airway.architectures.resampling import upsample


@pytest.mark.parametrize("size", [(8, 12, 10), (4, 6, 5), (16, 6, 25)])
def test_it_is_trilinear_with_aligned_corners(size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6, 5, dtype=torch.double, requires_grad=True)
    expected = F.interpolate(x, size, mode="trilinear", align_corners=True)
    found = upsample(x, torch.Size(size))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    factor = torch.randn_like(expected)
    torch.testing.assert_close(
        *(torch.autograd.grad((result * factor).sum(), x)[0] for result in (found, expected)), atol=1e-12, rtol=0
    )
