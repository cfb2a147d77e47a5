import pytest
import torch
from torch import nn

from nnunetv2_airway.architectures import airway_network
from nnunetv2_airway.architectures.airway_network import AirwayNetwork
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.hounsfield import HounsfieldInput


@pytest.fixture
def float32(monkeypatch):
    monkeypatch.setenv(airway_network.FLOAT32_VARIABLE, "1")


def network(heads: int) -> AirwayNetwork:
    torch.manual_seed(0)
    return AirwayNetwork(HounsfieldInput(("original", "tang")), WingsNet(2), heads).eval()


def test_two_heads_are_the_softmax_form_of_one_logit(float32):
    ct = torch.randint(-1000, 300, (1, 1, 16, 24, 16)).float()
    for two, one in zip(network(2)(ct), network(1)(ct), strict=True):
        assert two.shape == (1, 2, 16, 24, 16) and one.shape == (1, 1, 16, 24, 16)
        torch.testing.assert_close(two.softmax(1)[:, 1:], one.sigmoid())


def test_the_body_sees_the_windows(float32):
    ct = torch.full((1, 1, 8, 8, 8), -250.0)
    seen = AirwayNetwork(HounsfieldInput(("original", "tang")), nn.Identity(), 1)(ct)
    assert seen[0, :, 0, 0, 0].tolist() == pytest.approx([774 / 2048, 0.5])


def test_more_heads_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match="Merge the foreground labels"):
        network(3)


def test_bfloat16_on_cpus_that_have_it_and_float32_on_request(monkeypatch):
    monkeypatch.delenv(airway_network.FLOAT32_VARIABLE, raising=False)
    monkeypatch.setattr(airway_network, "cpu_has_bfloat16", lambda: False)
    assert not airway_network.cpu_bfloat16_wanted()
    monkeypatch.setattr(airway_network, "cpu_has_bfloat16", lambda: True)
    assert airway_network.cpu_bfloat16_wanted()
    ct = torch.randint(-1000, 300, (1, 1, 16, 16, 16)).float()
    low = network(2)
    monkeypatch.setenv(airway_network.FLOAT32_VARIABLE, "1")
    full = network(2)
    a, b = low(ct)[0], full(ct)[0]
    assert a.dtype == b.dtype == torch.float32
    assert not torch.equal(a, b)  # it did run in bfloat16
    for faster in (True, False):  # which a forward pass alone is on some CPUs
        monkeypatch.setattr(airway_network, "bfloat16_predicts_faster", lambda faster=faster: faster)
        monkeypatch.delenv(airway_network.FLOAT32_VARIABLE)
        low = network(2)  # in evaluation mode
        monkeypatch.setenv(airway_network.FLOAT32_VARIABLE, "1")
        with torch.no_grad():
            assert torch.equal(low(ct)[0], full(ct)[0]) != faster
    torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)
