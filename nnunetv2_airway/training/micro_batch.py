"""A batch of any size on a GPU of any size: the forward pass in micro-batches, exact for batch-wide losses.

Dice over the whole batch is not the sum of the Dice of its parts, so gradient accumulation would change the loss with
the GPU. Here each part runs under activation checkpointing instead: the logits of the whole batch exist at once, the
activations of one part at a time, and the loss and its gradient are those of the whole batch. The price is a second
forward pass, paid only where the batch does not fit.
"""

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from nnunetv2.utilities.helpers import empty_cache
from torch import nn
from torch.utils.checkpoint import checkpoint

from nnunetv2_airway.losses.supervision import SupervisionLoss

OUT_OF_MEMORY = (
    "out of memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm",
)
Output = torch.Tensor | list[torch.Tensor]


class MicroBatches:
    """Replace a network's ``forward`` by one that works through the batch in parts of ``size`` patches."""

    def __init__(self, network: nn.Module, size: int):
        self.size = size
        self.whole: Callable[[torch.Tensor], Output] = network.forward
        network.forward = self.forward

    def forward(self, x: torch.Tensor) -> Output:
        """Compute the network's output for (N, ...) in parts along N."""
        if x.shape[0] <= self.size:
            return self.whole(x)
        if torch.is_grad_enabled():
            parts = [checkpoint(self.whole, part, use_reentrant=False) for part in x.split(self.size)]
        else:
            parts = [self.whole(part) for part in x.split(self.size)]
        if isinstance(parts[0], list):
            return [torch.cat(output) for output in zip(*parts, strict=True)]
        return torch.cat(parts)

    def halve(self) -> bool:
        """Halve the size and say whether that was possible."""
        if self.size == 1:
            return False
        self.size = (self.size + 1) // 2
        return True


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device's memory has ended: PyTorch's error, or that of the driver, of a library or of the compiler.

    cuDNN finds no algorithm where there is no memory for the workspace of any.
    """
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def rehearse(
    network: nn.Module,
    micro_batches: MicroBatches,
    batch: dict,
    loss: SupervisionLoss,
    device: torch.device,
) -> None:
    """Find, before the first step, a size that fits on every DDP rank; all ranks call this together.

    A rank that runs out of memory cannot repeat a step alone while the others wait for its gradients. So each runs
    forward and backward, and all that can halve their micro-batch while any fails.

    Args:
        network: of ``micro_batches``, without ``DistributedDataParallel`` around it: that one's forward pass sends
            buffers, for which the others would wait where one rank has failed.
        micro_batches: what is to be sized.
        batch: one of this rank's, as nnU-Net's loaders give it.
        loss: of the phase; from here on it adds up no sums of ranks, since one that has failed would be waited for.
        device: this rank's device.

    Raises:
        RuntimeError: on some rank not even one patch fits; raised on all of them.
    """
    loss.ddp = False
    while True:
        failed = False
        try:
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                value = loss(network(batch["data"].to(device)), [part.to(device) for part in batch["target"]])
            value.backward()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        value = None
        network.zero_grad(set_to_none=True)
        empty_cache(device)
        # batches of ranks may differ by a patch: one that cannot halve waits for those that can
        anywhere = torch.tensor([failed, micro_batches.size > 1], dtype=torch.float32, device=device)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        failed, can_halve = anywhere.tolist()
        if not failed:
            return
        if not can_halve:
            raise RuntimeError(f"the GPU's memory does not hold one patch of {tuple(batch['data'].shape[2:])} voxels")
        micro_batches.halve()


def fresh_after_out_of_memory(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None, device: torch.device
) -> torch.amp.GradScaler | None:
    """Clear what a training step has left that ran out of memory, so that it can be made again.

    Memory can also end inside the optimiser's step. By then the scaler has unscaled the gradients, which it does not do
    twice, and the optimiser may have made a part of what it keeps of a parameter.

    Args:
        optimizer: of the step.
        scaler: of its gradients, or None.
        device: of the step.

    Returns:
        A scaler of the same scale that has unscaled nothing, or None.
    """
    optimizer.zero_grad(set_to_none=True)
    # made parameter by parameter: only the last one's can be a part, and where it is the first there are no others
    whole = max(map(len, optimizer.state.values())) if len(optimizer.state) > 1 else math.inf
    for parameter in [parameter for parameter, state in optimizer.state.items() if len(state) < whole]:
        del optimizer.state[parameter]
    empty_cache(device)
    if scaler is None:
        return None
    fresh = torch.amp.GradScaler(device.type)
    fresh.load_state_dict(scaler.state_dict())
    return fresh
