"""Weights of a voxel that a Phase can use.

Papers: Tang 2022 (eqs. 3 and 4), Zheng 2021 (eqs. 15 and 16), Shirokikh 2020; the winning entry to AIIB23 (MedibotTeam,
in Nan et al., Medical Image Analysis 2024). Frozen rows that hand their numbers to the equations; ``supervision`` adds
them up. Another weight is one more class with the methods of ``Weight``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from nnunetv2_airway.losses.functional import (
    centerline_distance_weight,
    distance_decay_weight,
    inverse_component_weight,
    local_imbalance_weight,
    thin_airway_weight,
)


class Weight(Protocol):
    """A term of a voxel's weight."""

    name: str

    @property
    def map_name(self) -> str | None:
        """Which map of ``training.maps.kinds`` it needs, if any."""

    def weigh(self, target: torch.Tensor, maps: Mapping[str, torch.Tensor], *, sample: bool) -> torch.Tensor:
        """Compute the term, (N, 1, Z, Y, X) in float32.

        Args:
            target: binary, (N, 1, Z, Y, X).
            maps: those carried through augmentation by name, same shape: "centerline", "missed" and "breakage", uint8
                from 0 to 255, and numbers of "components" or "branches", which go on for a voxel around them; -1 on
                ignored voxels.
            sample: sample what is random, as in training; else its mean is taken.
        """


@dataclass(frozen=True)
class LocalImbalance:
    """Tang 2022, eq. 3: w_p; the exponent is sampled uniformly from a range for each patch."""

    exponents: tuple[float, float] = (2.0, 3.0)
    floor: float = 0.05
    kernel_size: int = 7
    name: str = "local imbalance"
    map_name: ClassVar[None] = None

    def weigh(self, target, maps, *, sample):  # noqa: D102, as in Weight
        low, high = self.exponents
        place = torch.rand((len(target), 1, 1, 1, 1), device=target.device) if sample else 0.5
        exponent = low + (high - low) * place
        return local_imbalance_weight(target, exponent=exponent, kernel_size=self.kernel_size, floor=self.floor)


@dataclass(frozen=True)
class CenterlineDistance:
    """Tang 2022, eq. 4: w_d."""

    name: str = "centerline distance"
    map_name: ClassVar[str] = "centerline"

    def weigh(self, target, maps, *, sample):  # noqa: D102, as in Weight
        return centerline_distance_weight(target, maps[self.map_name].float() / 255)


@dataclass(frozen=True)
class ThinAirways:
    """Thick airways and what lies around them weigh 0; in no paper."""

    thick: int = 3
    apart: int = 1
    name: str = "thin airways"
    map_name: ClassVar[None] = None

    def weigh(self, target, maps, *, sample):  # noqa: D102, as in Weight
        return thin_airway_weight(target, thick=self.thick, apart=self.apart)


@dataclass(frozen=True)
class DistanceDecay:
    """Zheng 2021, eq. 15; ``alpha`` is that of the loss."""

    alpha: float
    exponent: float = 0.5
    name: str = "distance decay"
    map_name: ClassVar[str] = "centerline"

    def weigh(self, target, maps, *, sample):  # noqa: D102, as in Weight
        closeness = maps[self.map_name].float() / 255
        return distance_decay_weight(target, closeness, alpha=self.alpha, exponent=self.exponent)


@dataclass(frozen=True)
class MissedCenterline:
    """AIIB23's winner: w_d around the centerline voxels that an earlier prediction missed, times a factor."""

    factor: float = 0.5
    name: str = "missed centerline"
    map_name: ClassVar[str] = "missed"

    def weigh(self, target, maps, *, sample):  # noqa: D102, as in Weight
        return self.factor * centerline_distance_weight(target, maps[self.map_name].float() / 255)


@dataclass(frozen=True)
class Breakage:
    """AIIB23's winner: w_k, high where two pieces of an earlier prediction come close."""

    name: str = "breakage"
    map_name: ClassVar[str] = "breakage"

    def weigh(self, target, maps, *, sample):  # noqa: D102, as in Weight
        return maps[self.map_name].float() / 255


@dataclass(frozen=True)
class InverseWeight:
    """Shirokikh 2020: components, or whatever else a map numbers, count alike.

    With ``foreground_only`` they do so among themselves, and the background weighs 1: w = F / (K S) for F voxels of
    foreground, which weigh 1 on average.
    """

    name: str
    map_name: str
    minimum: float = 1.0
    maximum: float = 2e5
    foreground_only: bool = False

    def weigh(self, target, maps, *, sample):  # noqa: D102, as in Weight
        numbers = maps[self.map_name]
        # the label decides what is foreground; the map goes on around it
        numbers = torch.where((target > 0) | (numbers < 0), numbers, -1 if self.foreground_only else 0)
        limits = {"minimum": self.minimum, "maximum": self.maximum, "dtype": torch.float32}
        weight = inverse_component_weight(numbers, **limits)
        return torch.where(target > 0, weight, 1.0) if self.foreground_only else weight


LOCAL_IMBALANCE = LocalImbalance()
CENTERLINE_DISTANCE = CenterlineDistance()
THIN_AIRWAYS = ThinAirways()
MISSED_CENTERLINE = MissedCenterline()
BREAKAGE = Breakage()
INVERSE_COMPONENT = InverseWeight("inverse component size", "components")
INVERSE_BRANCH = InverseWeight("inverse branch size", "branches", minimum=0.0, foreground_only=True)
"""With dozens of branches in a patch, a background that counts as one of them would weigh hundreds of times less than
the airways' rim, and every wall would be predicted as lumen."""
