import copy
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_airway.architectures.airway_network import AirwayNetwork
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.hounsfield import HounsfieldInput
from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.losses.supervision import SupervisionLoss
from nnunetv2_airway.training.micro_batch import MicroBatches, fresh_after_out_of_memory, is_out_of_memory, rehearse


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


def fail_above(net, limit):
    def hook(module, inputs):
        if len(inputs[0]) > limit:
            raise torch.OutOfMemoryError("simulated")

    net.hounsfield.register_forward_pre_hook(hook)


BATCHES_LIMITS_SIZES = (
    # one rank runs out of memory in its forward pass while the other has passed its own
    ([8, 8], [8, 3], [2, 2]),
    # 3 patches on two ranks: one has but one, which fits, and the other has to halve
    ([2, 1], [1, 1], [1, 1]),
    ([2, 1], [1, 0], ["does not hold one patch of (8, 16, 8) voxels"] * 2),
)


def one_rank(rank: int, folder: str) -> None:
    """Find sizes with the other rank, under DDP, for batches and GPUs of its own."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for batches, limits, _ in BATCHES_LIMITS_SIZES:
        net = network().float()
        fail_above(net, limits[rank])
        ddp = DistributedDataParallel(net)
        micro = MicroBatches(net, batches[rank])
        try:
            ones = torch.ones((batches[rank], 1, 8, 16, 8))
            loss = SupervisionLoss(DICE, foreground_label=1, ignore_label=None, ddp=True)
            rehearse(ddp.module, micro, {"data": -500 * ones, "target": [ones]}, loss, torch.device("cpu"))
            assert all(parameter.grad is None for parameter in net.parameters())
            print(micro.size)
        except RuntimeError as error:
            print(error)
    dist.destroy_process_group()


def test_ddp_ranks_find_a_size_before_the_first_step(tmp_path):
    line = [sys.executable, __file__]
    ranks = [
        subprocess.Popen([*line, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True) for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=120)[0].splitlines() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for number, (_, _, sizes) in enumerate(BATCHES_LIMITS_SIZES):
        assert all(str(size) in said[rank][number] for rank, size in enumerate(sizes)), said


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), True),
        (RuntimeError("out of resource: shared memory, Required: 262144"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_memory_that_has_ended_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize("failed", ["weight", "bias"])
def test_a_step_whose_memory_ended_inside_the_optimizer_can_be_made_again(failed):
    torch.manual_seed(0)
    nets = [torch.nn.Linear(4, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    data = torch.randn(8, 4)
    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.1) for net in nets]
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in nets]

    def step(net, optimizer, scaler):
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(net(data).square().mean()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    def out_of_memory(optimizer, *args, **kwargs):
        """AdamW makes its state parameter by parameter, the number of steps first."""
        for name, parameter in nets[1].named_parameters():
            optimizer.state[parameter]["step"] = torch.tensor(0.0)
            if name == failed:
                raise torch.OutOfMemoryError("simulated")
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][moment] = torch.zeros_like(parameter)

    hook = optimizers[1].register_step_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        step(nets[1], optimizers[1], scalers[1])
    hook.remove()
    with pytest.raises(RuntimeError, match="already been called"):
        scalers[1].unscale_(optimizers[1])
    scalers[1] = fresh_after_out_of_memory(optimizers[1], scalers[1], torch.device("cpu"))
    assert scalers[1].get_scale() == 1024
    for _ in range(2):
        for net, optimizer, scaler in zip(nets, optimizers, scalers, strict=True):
            step(net, optimizer, scaler)
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, other)


def test_without_a_scaler_there_is_none_afterwards():
    net = torch.nn.Linear(2, 1)
    own = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(1, 2)).sum().backward()
    assert fresh_after_out_of_memory(own, None, torch.device("cpu")) is None
    assert all(parameter.grad is None for parameter in net.parameters())


if __name__ == "__main__":  # one rank, started by the test above
    one_rank(int(sys.argv[1]), sys.argv[2])
