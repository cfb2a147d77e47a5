"""What nnU-Net sees: Hounsfield input layer, a network of one logit per voxel, and nnU-Net's label heads."""

import os
from contextlib import nullcontext
from functools import cache, partial
from timeit import Timer

import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_airway.architectures.memory import rows_for_prediction
from nnunetv2_airway.hounsfield import HounsfieldInput

FLOAT32_VARIABLE = "nnUNet_airway_float32"
"""Set this environment variable to 1 to compute in float32 also on CPUs that have bfloat16."""

GAIN = 1.25
"""By which bfloat16 has to be faster where it is not needed for memory."""


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16, AMX), so that autocast gains time."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def cpu_bfloat16_wanted() -> bool:
    """Whether to compute under bfloat16 autocast on the CPU: it must be able to and not be asked not to."""
    return os.environ.get(FLOAT32_VARIABLE, "").lower() not in ("1", "true", "t") and cpu_has_bfloat16()


@cache
def bfloat16_predicts_faster() -> bool:
    """Whether also a forward pass alone clearly gains; measured, since CPUs differ by a factor of 4 here."""
    x, weight = torch.ones(1, 64, 20, 20, 20), torch.ones(64, 64, 3, 3, 3)
    seconds = []
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float32):
            operands = rows_for_prediction(x.to(dtype)), weight.to(dtype)
            timer = Timer(partial(F.conv3d, *operands, padding=1))
            timer.timeit(1)
            seconds.append(min(timer.repeat(3, 1)))
    return GAIN * seconds[0] < seconds[1]


class AirwayNetwork(nn.Module):
    """A network of one logit z per voxel, dressed for nnU-Net.

    Two label heads {background, airway} become cat(0, z), whose softmax is sigmoid(z); one region head is z itself.
    On CPUs with bfloat16 the body runs under bfloat16 autocast (nnU-Net itself autocasts on CUDA only) where that is
    faster; the logits leave in float32.

    Args:
        hounsfield: makes the body's channels from the CT.
        body: takes them, returns z (N, 1, Z, Y, X) or a list of such.
        heads: nnU-Net's number of segmentation heads.

    Raises:
        ValueError: ``heads`` is neither 1 nor 2.
    """

    def __init__(self, hounsfield: HounsfieldInput, body: nn.Module, heads: int):
        super().__init__()
        if heads not in (1, 2):
            raise ValueError(
                f"the airway network segments one structure: labels {{background, airway}} or one region; these "
                f"labels ask for {heads} heads. Merge the foreground labels in the data set, or declare one region."
            )
        self.hounsfield = hounsfield
        self.body = body
        self.heads = heads
        self.cpu_bfloat16 = cpu_bfloat16_wanted()
        self.predicts_in_bfloat16 = False  # -> train

    def train(self, mode: bool = True) -> "AirwayNetwork":
        """Set the mode; before prediction on a CPU, find out which precision is faster."""
        if not mode and self.cpu_bfloat16 and all(each.device.type == "cpu" for each in self.parameters()):
            self.predicts_in_bfloat16 = bfloat16_predicts_faster()
        return super().train(mode)

    def forward(self, ct: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Map a CT (N, 1, Z, Y, X) to logits (N, heads, Z, Y, X), or to a list of them under deep supervision."""
        narrow = self.cpu_bfloat16 if torch.is_grad_enabled() else self.predicts_in_bfloat16
        with torch.autocast("cpu", torch.bfloat16) if narrow and ct.device.type == "cpu" else nullcontext():
            logits = self.body(self.hounsfield(ct))
        if isinstance(logits, list):
            return [self._dress(z) for z in logits]
        return self._dress(logits)

    def _dress(self, z: torch.Tensor) -> torch.Tensor:
        z = z.float() if z.dtype == torch.bfloat16 else z
        return z if self.heads == 1 else torch.cat((torch.zeros_like(z), z), dim=1)
