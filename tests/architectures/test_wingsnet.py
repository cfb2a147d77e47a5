import numpy as np
import pytest
import torch
from plain_wingsnet import PlainWingsNet

from nnunetv2_airway.architectures import wingsnet
from nnunetv2_airway.architectures.resampling import upsample
from nnunetv2_airway.architectures.wingsnet import BLOCKS, PARTITIONS, ConvBlock, WingsNet


@pytest.fixture(scope="module")
def published(reference):
    with np.load(reference / "wingsnet_2ch.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def weights(published):
    return {name.removeprefix("weights/"): value for name, value in published.items() if name.startswith("weights/")}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_agrees_with_the_authors_code(published, dtype, tolerance):
    network = WingsNet(2)
    network.load_published_state_dict(weights(published))
    network.to(dtype).eval()
    with torch.no_grad():
        decoder, encoder = network(published["input"].to(dtype))
    assert (decoder - published["decoder_logits"]).abs().max() <= tolerance
    assert (encoder - published["encoder_logits"]).abs().max() <= tolerance


def test_parameter_names_and_shapes_are_the_published_ones(published):
    own = {name: value.shape for name, value in WingsNet(2).state_dict().items()}
    assert own == {name: value.shape for name, value in weights(published).items()}


@pytest.mark.parametrize("head", ["dc0_", "dc0_{}.0."], ids=["Tang", "Zheng"])
def test_published_checkpoints_load_with_their_wrapping(head):
    source, target = WingsNet(1), WingsNet(1)
    named = {
        f"{head.format(name[4])}{name[6:]}" if "{" in head and name.startswith("dc0_") else name: value
        for name, value in source.state_dict().items()
    }
    assert ("dc0_0.0.weight" in named) == ("{" in head)
    wrapped = {"state_dict": {f"module.{name}": value.half() for name, value in named.items()}}
    target.load_published_state_dict(wrapped)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value.half().float(), atol=0, rtol=0)


def test_weights_that_do_not_fit_are_listed():
    state = WingsNet(1).state_dict()
    state["extra"] = state.pop("dc0_1.bias")
    with pytest.raises(ValueError) as error:
        WingsNet(2).load_published_state_dict(state)
    message = str(error.value)
    assert "dc0_1.bias is missing" in message and "extra is not part of WingsNet" in message
    assert "ec1.conv1.weight has shape (8, 1, 3, 3, 3), needed (8, 2, 3, 3, 3)" in message


@pytest.mark.parametrize(
    "partition",
    [name if name in ("wings", "four_crossed") else pytest.param(name, marks=pytest.mark.slow) for name in PARTITIONS],
)
def test_equals_the_plain_network_in_values_and_gradients(partition):
    torch.manual_seed(0)
    network = WingsNet(2, partition=partition, dropout=0).double()
    x = torch.randn(2, 2, 16, 8, 24, dtype=torch.double)
    same = PlainWingsNet(2, partition=partition, dropout=0).double()
    same.load_state_dict(network.state_dict())
    ours, plain = network(x), same(x)
    assert len(ours) == len(network.groups)
    for a, b in zip(ours, plain, strict=True):
        assert a.shape == (2, 1, 16, 8, 24)
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    parameters = list(network.parameters())
    factors = [torch.randn_like(a) for a in ours]
    for a, b in zip(
        torch.autograd.grad(sum((f * o).sum() for f, o in zip(factors, ours, strict=True)), parameters),
        torch.autograd.grad(sum((f * p).sum() for f, p in zip(factors, plain, strict=True)), list(same.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


def test_partitions_use_every_block_at_most_once_and_end_with_the_last():
    for name, groups in PARTITIONS.items():
        blocks = [block for group in groups for block in group]
        assert sorted(blocks) == (list(range(12, 18)) if name == "decoder" else list(range(18)))
        assert 17 in groups[-1]


def test_each_group_is_upsampled_once_per_level(monkeypatch):
    calls = []
    monkeypatch.setattr(
        wingsnet, "upsample", lambda x, size: calls.append((x.shape[1], x.shape[2:] != size)) or upsample(x, size)
    )
    WingsNet(1).eval()(torch.zeros(1, 1, 16, 16, 16))
    heads = [needed for channels, needed in calls if channels == 1 and needed]
    assert len(heads) == 3 + 2  # encoder levels 1 to 3, decoder levels 1 and 2
    assert sum(needed for _, needed in calls) == len(heads) + 3  # and the three up-samplings of the decoder itself


def test_deep_supervision_off_returns_the_decoder_group():
    network = WingsNet(1).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        decoder = network(x)[0]
        network.deep_supervision = False
        assert torch.equal(network(x), decoder)


def test_dropout_drops_whole_channels_of_the_pyramid_only_in_training():
    torch.manual_seed(0)
    network = WingsNet(1)
    x = torch.randn(1, 1, 16, 16, 16)
    assert not torch.equal(network(x)[0], network(x)[0])
    network.eval()
    assert torch.equal(network(x)[0], network(x)[0])


def test_attention_gates_are_in_cascade_in_all_but_the_first_three_and_last_two_blocks():
    assert [row.gates for row in BLOCKS] == [1] * 3 + [2] * 13 + [1] * 2
    assert all(isinstance(getattr(WingsNet(1), row.name), ConvBlock) for row in BLOCKS)


@pytest.mark.parametrize("size", [(20, 16, 16), (16, 16, 12), (16, 16)])
def test_patches_not_divisible_by_eight_are_refused(size):
    with pytest.raises(ValueError, match="multiple of 8"):
        WingsNet(1)(torch.zeros(1, 1, *size))


def test_unknown_partition():
    with pytest.raises(ValueError, match="four_crossed"):
        WingsNet(1, partition="five")


@pytest.mark.parametrize("patches", [1, 2])
def test_predicts_what_it_has_been_trained_on(patches):
    """Without gradients a CPU computes a single patch in another memory layout."""
    torch.manual_seed(1)
    network = WingsNet(2, deep_supervision=False).double().eval()
    x = torch.randn(patches, 2, 16, 8, 24, dtype=torch.double)
    with torch.inference_mode():
        predicted = network(x)
    torch.testing.assert_close(predicted.clone(), network(x).detach(), atol=1e-10, rtol=0)
