import copy

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_airway.architectures.airway_network import AirwayNetwork
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.hounsfield import HounsfieldInput
from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.losses.supervision import SupervisionLoss
from nnunetv2_airway.trainers.micro_batch import MicroBatches, rehearse


def network() -> AirwayNetwork:
    torch.manual_seed(0)
    result = AirwayNetwork(HounsfieldInput(("original", "tang")), WingsNet(2, dropout=0), 2)
    result.cpu_bfloat16 = False
    return result.double()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_loss_and_gradient_of_the_whole_batch_whatever_the_part(size):
    whole = network()
    parts = copy.deepcopy(whole)
    MicroBatches(parts, size)
    ct = torch.randint(-1000, 300, (5, 1, 8, 16, 8)).double()
    target = (torch.rand(5, 1, 8, 16, 8) > 0.8).short()
    criterion = SupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=False)
    losses = [criterion(net(ct), [target]) for net in (whole, parts)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-12)
    for loss in losses:
        loss.backward()
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=1e-10)


def test_at_most_size_patches_at_a_time_with_and_without_gradient():
    net, seen = network(), []
    net.hounsfield.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    MicroBatches(net, 2)
    net.body.deep_supervision = False
    with torch.no_grad():
        assert net(torch.zeros(5, 1, 16, 16, 16).double()).shape == (5, 2, 16, 16, 16)
    assert seen == [2, 2, 1]
    assert isinstance(net(torch.zeros(1, 1, 16, 16, 16).double()), torch.Tensor)
    net.body.deep_supervision = True
    assert [o.shape[0] for o in net(torch.zeros(5, 1, 16, 16, 16).double())] == [5, 5]
    assert max(seen) == 2


def test_halving_ends_at_one_patch():
    micro = MicroBatches(network(), 32)
    sizes = []
    while micro.halve():
        sizes.append(micro.size)
    assert sizes == [16, 8, 4, 2, 1]


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fail_above(net, limit):
    def hook(module, inputs):
        if len(inputs[0]) > limit:
            raise torch.OutOfMemoryError("simulated")

    net.hounsfield.register_forward_pre_hook(hook)


def test_ddp_ranks_find_a_size_before_the_first_step(process_group):
    net = network().float()
    fail_above(net, 3)
    ddp = DistributedDataParallel(net)
    micro = MicroBatches(net, 8)
    rehearse(ddp, micro, (8, 1, 8, 16, 8), torch.device("cpu"))
    assert micro.size == 2
    assert all(parameter.grad is None for parameter in net.parameters())


def test_ddp_says_when_not_even_one_patch_fits(process_group):
    net = network().float()
    fail_above(net, 0)
    ddp = DistributedDataParallel(net)
    with pytest.raises(RuntimeError, match=r"does not hold one patch of \(8, 16, 8\) voxels"):
        rehearse(ddp, MicroBatches(net, 4), (4, 1, 8, 16, 8), torch.device("cpu"))
