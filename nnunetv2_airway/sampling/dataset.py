"""nnU-Net's data set, seen through the airway maps: one more image channel, and voxels to place patches around."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunetv2_airway.maps.store import MapStore
from nnunetv2_airway.schedule import Sampling


@dataclass(frozen=True)
class WithCloseness:
    """A CT (1, Z, Y, X) with the closeness to the centerline as a second channel; read from disk when sliced."""

    ct: np.ndarray
    closeness: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(2, Z, Y, X)."""
        return (self.ct.shape[0] + 1, *self.ct.shape[1:])

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        channels, *place = box
        if channels != slice(None):
            raise IndexError(f"only whole channels can be read, got {channels}")
        ct = self.ct[box]
        return np.concatenate((ct, self.closeness[tuple(place)][None].astype(ct.dtype)))


@dataclass(frozen=True)
class AirwayDataset:
    """A data set for ``AirwayDataLoader``.

    Args:
        dataset: nnU-Net's.
        maps: of all its cases.
        sampling: what the patches of a batch must hold.
        hard: mined voxels (N, 3) by case.
    """

    dataset: nnUNetBaseDataset
    maps: MapStore
    sampling: Sampling
    hard: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def identifiers(self) -> list[str]:
        """The cases."""
        return self.dataset.identifiers

    def load_case(self, identifier: str) -> tuple[WithCloseness, np.ndarray, np.ndarray | None, dict]:
        """Load a case as nnU-Net does; ``class_locations`` also holds voxels (N, 3) by kind of patch."""
        ct, label, previous, properties = self.dataset.load_case(identifier)
        maps = self.maps.read(identifier)
        points = {"hard": self.hard.get(identifier, ()), "small": maps.small, "centerline": maps.centerline}
        properties = {**properties, "class_locations": {**properties["class_locations"], **points}}
        return WithCloseness(ct, maps.closeness), label, previous, properties
