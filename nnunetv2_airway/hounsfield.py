"""Hounsfield units: named windows, the network's first layer, and the way back from nnU-Net's normalisation.

The network makes its input channels itself from one CT in Hounsfield units (HU), so the raw data set keeps one file
per case and ``nnUNetv2_predict`` takes any CT. The data set's channel is therefore called ``"noNorm"``.

Papers: Tang 2022, section 2.1 (original volume, and window level -250, width 750); Zheng 2021, section IV-A
([-1000, 600]). The code published with Tang's entry clips at [-1000, 500], that is level +- width; "level -250, width
750" is read here as DICOM defines it, level +- width / 2, and the other is kept as a named window. The repository of
Zheng's entry has [-1000, 400] and [-1200, 600]; the ATM'22 organisers' baseline uses [-1000, 400].
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nnunetv2_airway.io.errors import UserError

NEEDED = (
    'Airway trainers need CTs in Hounsfield units. In dataset.json name the only channel "noNorm" '
    '("channel_names": {"0": "noNorm"}), then run nnUNetv2_plan_and_preprocess again.'
)

SHIFTED = (
    "A CT seems not to be in Hounsfield units: a whole patch of it lies between {least:.0f} and {most:.0f}. Its "
    "segmentation cannot be trusted. CTs stored from 0 to 4095 need their rescale intercept, mostly -1024, added "
    "before nnUNetv2_predict."
)
LUNG_HU = -300
"""What lies below it is air or lung: a patch that has some is in Hounsfield units, and with it the whole CT."""


@dataclass(frozen=True)
class Window:
    """A range of Hounsfield units that is mapped to [0, 1]."""

    lower: float
    upper: float


WINDOWS = {
    "original": Window(-1024, 1024),
    "tang": Window(-625, 125),
    "tang_published": Window(-1000, 500),
    "zheng": Window(-1000, 600),
    "zheng_published": Window(-1000, 400),
    "zheng_wide": Window(-1200, 600),
    "narrow": Window(-1024, -440),
}
"""Windows by name; "original" and "tang" together are Tang 2022's two channels."""


@dataclass(frozen=True)
class HounsfieldScale:
    """How stored intensities become Hounsfield units: HU = slope * intensity + intercept.

    ``clipped_at`` holds the HU range outside which preprocessing has already removed all contrast, None where it has
    kept it.
    """

    slope: float = 1.0
    intercept: float = 0.0
    clipped_at: tuple[float, float] | None = None

    @classmethod
    def from_plans(
        cls, normalization_schemes: Sequence[str], intensity_properties: dict[str, dict[str, float]]
    ) -> "HounsfieldScale":
        """Read the scale from nnU-Net's plans.

        Args:
            normalization_schemes: the configuration's ``normalization_schemes``.
            intensity_properties: the plans' ``foreground_intensity_properties_per_channel``, in HU.

        Raises:
            UserError: more than one channel, or a normalisation that cannot be undone because it differs by case.
        """
        if len(normalization_schemes) != 1:
            raise UserError(
                f"{NEEDED} These plans have {len(normalization_schemes)} channels: {', '.join(normalization_schemes)}."
            )
        scheme = normalization_schemes[0]
        if scheme == "NoNormalization":
            return cls()
        if scheme != "CTNormalization":
            raise UserError(f"{NEEDED} These plans use {scheme}, which cannot be turned back into Hounsfield units.")
        try:
            found = intensity_properties["0"]
            values = [float(found[key]) for key in ("mean", "std", "percentile_00_5", "percentile_99_5")]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{NEEDED} These plans use CTNormalization, but their foreground_intensity_properties_per_channel "
                f"lacks the mean, std, percentile_00_5 or percentile_99_5 of channel 0 needed to undo it."
            ) from error
        mean, std, lower, upper = values
        return cls(slope=max(std, 1e-8), intercept=mean, clipped_at=(lower, upper))

    def warning(self) -> str | None:
        """Say what preprocessing has lost, or return None where it has lost nothing."""
        if self.clipped_at is None:
            return None
        lower, upper = self.clipped_at
        return (
            f"WARNING: these plans use nnU-Net's CT normalisation, which clipped every CT to [{lower:.0f}, {upper:.0f}]"
            f" HU, the 0.5 and 99.5 percentiles inside the airways. Contrast above {upper:.0f} HU is gone: lung, airway"
            f" wall and vessel look alike where they exceed it. {NEEDED}"
        )


class PredictedCase:
    """What this process knows of the CT that it predicts: whether its unit has been settled, by a patch or a warning.

    nnU-Net predicts one CT after the other, and calls the network's ``eval`` before each.
    """

    settled = False

    @classmethod
    def see(cls, ct: torch.Tensor) -> None:
        """Warn if a patch holds a CT stored from 0 on: nothing below 0 and something above 300.

        In Hounsfield units only bone without a trace of noise would look so; fat, air and noise lie below 0.
        """
        if cls.settled:
            return
        least, most = (float(value) for value in torch.aminmax(ct))
        shifted = least >= 0 and most > 300
        if shifted:  # with a registry of its own, since Python shows the same words of the same line once only
            words = SHIFTED.format(least=least, most=most)
            warnings.warn_explicit(words, UserWarning, "nnunetv2_airway", lineno=0, registry={})
        cls.settled = shifted or least < LUNG_HU


@torch.library.custom_op("nnunetv2_airway::seen", mutates_args=())
def seen(ct: torch.Tensor) -> torch.Tensor:
    """Let ``PredictedCase`` see a patch, also where the network is compiled: to torch.compile this is one operation.

    A copy is returned, so that the operation is not left out as one without effect.
    """
    PredictedCase.see(ct)
    return ct.clone()


seen.register_fake(torch.empty_like)
seen.register_autograd(lambda ctx, gradient: gradient)


class HounsfieldInput(nn.Module):
    """First layer: one CT in, one channel in [0, 1] per window out; nothing to train, nothing in the state dict.

    Args:
        windows: names from ``WINDOWS``, one per output channel.
        scale: how the CT's intensities become Hounsfield units.

    Raises:
        UserError: unknown window.

    >>> ct = torch.tensor([-1000.0, -250, 125]).view(1, 1, 1, 1, 3)
    >>> HounsfieldInput(("tang",))(ct).flatten()
    tensor([0.0000, 0.5000, 1.0000])
    """

    def __init__(self, windows: Sequence[str], scale: HounsfieldScale = HounsfieldScale()):
        super().__init__()
        unknown = [name for name in windows if name not in WINDOWS]
        if unknown or not windows:
            raise UserError(f"windows must be a tuple of some of {', '.join(WINDOWS)}; got {windows!r}")
        rows = [WINDOWS[name] for name in windows]
        factors = [scale.slope / (row.upper - row.lower) for row in rows]
        offsets = [(scale.intercept - row.lower) / (row.upper - row.lower) for row in rows]
        self.keeps_hu = scale == HounsfieldScale()
        self.register_buffer("factor", torch.tensor(factors).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("offset", torch.tensor(offsets).view(1, -1, 1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "HounsfieldInput":
        """Set the mode; the next CT is another one."""
        PredictedCase.settled = False
        return super().train(mode)

    def forward(self, ct: torch.Tensor) -> torch.Tensor:
        """Map a CT (N, 1, Z, Y, X) in stored intensities to (N, windows, Z, Y, X) in [0, 1], at least in float32.

        In prediction it warns, once for each CT, of one that is not in Hounsfield units; training data are checked at
        the start.
        """
        if not self.training and self.keeps_hu:
            ct = seen(ct)
        return (ct.to(torch.promote_types(ct.dtype, self.factor.dtype)) * self.factor + self.offset).clamp(0, 1)
