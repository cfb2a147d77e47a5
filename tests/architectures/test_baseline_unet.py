import pytest
import torch
import torch.nn.functional as F

from nnunetv2_airway.architectures.baseline_unet import BaselineUNet
from nnunetv2_airway.architectures.published import differences


def plain(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network as its public code computes it, function by function; both channels."""

    def level(name: str, x: torch.Tensor) -> torch.Tensor:
        for block in ("Conv1", "Conv2"):
            own = {
                key.split(f"{block}.")[1]: value
                for key, value in state.items()
                if f"{name}.basic_module.{block}" in key
            }
            x = F.conv3d(x, own["conv.weight"], own["conv.bias"], padding=1)
            x = F.instance_norm(x, weight=own["instancenorm.weight"], bias=own["instancenorm.bias"])
            x = F.prelu(x, own["pReLU.weight"])
        return x

    skips = []
    for number in (1, 2, 3, 4):
        x = level(f"EncoderLayer{number}", x if number == 1 else F.max_pool3d(x, 2))
        skips.append(x)
    for number, skip in ((1, skips[2]), (2, skips[1]), (3, skips[0])):
        x = F.interpolate(x, skip.shape[2:], mode="trilinear", align_corners=True)
        x = level(f"DecoderLayer{number}", torch.cat((skip, x), 1))
    return F.conv3d(x, state["final_conv.weight"], state["final_conv.bias"])


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = BaselineUNet()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-9)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("gradients", [True, False], ids=["training", "prediction"])
@pytest.mark.parametrize("patches", [1, 2])
def test_equals_the_plain_network(network, dtype, tolerance, gradients, patches):
    network.to(dtype)
    x = torch.rand((patches, 1, 16, 24, 32), dtype=dtype)
    with torch.set_grad_enabled(gradients):
        logits = network(x)
    assert logits.shape == (patches, 1, 16, 24, 32) and logits.requires_grad == gradients
    expected = plain(network.state_dict(), x)[:, 1:]
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()


def test_parameter_names_and_shapes_are_the_published_ones(real):
    published = torch.load(real / "weights" / "atm22_baseline.pth", map_location="cpu", weights_only=True)
    assert len(published) == 72
    assert differences(BaselineUNet(), published) == []
