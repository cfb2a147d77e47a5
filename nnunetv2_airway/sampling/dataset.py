"""nnU-Net's data set, seen through maps: one more image channel for each, and voxels to place patches around."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunetv2_airway.maps.store import MapStore, Stored
from nnunetv2_airway.schedule import Sampling


@dataclass(frozen=True)
class WithMaps:
    """An image (C, Z, Y, X) with maps (Z, Y, X) as further channels; read from disk when sliced."""

    image: Stored
    maps: Sequence[np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C + number of maps, Z, Y, X)."""
        return (self.image.shape[0] + len(self.maps), *self.image.shape[1:])

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        channels, *place = box
        if channels != slice(None):
            raise IndexError(f"only whole channels can be read, got {channels}")
        image = self.image[box]
        return np.concatenate((image, *(values[tuple(place)][None].astype(image.dtype) for values in self.maps)))


@dataclass(frozen=True)
class MappedDataset:
    """A data set for ``PatchLoader``.

    Args:
        dataset: nnU-Net's.
        maps: of all its cases, by name.
        sampling: what the patches of a batch must hold; None leaves that to nnU-Net.
        hard: mined voxels (N, 3) by case.
    """

    dataset: nnUNetBaseDataset
    maps: Mapping[str, MapStore]
    sampling: Sampling | None
    hard: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def identifiers(self) -> list[str]:
        """The cases."""
        return self.dataset.identifiers

    def load_case(self, identifier: str) -> tuple[WithMaps, Stored, np.ndarray | None, dict]:
        """Load a case as nnU-Net does; with a sampling, ``class_locations`` holds voxels by kind of patch as well."""
        image, label, previous, properties = self.dataset.load_case(identifier)
        maps = [store.read(identifier) for store in self.maps.values()]
        if self.sampling is not None:
            points = {"hard": self.hard.get(identifier, ())}
            for case_map in maps:
                points.update(case_map.points)
            properties = {**properties, "class_locations": {**properties["class_locations"], **points}}
        damaged = (
            f"the preprocessed CT or label of case {identifier} is damaged: delete this case's preprocessed files, run "
            f"nnUNetv2_preprocess again, and go on with --c"
        )
        image = WithMaps(Stored(image, damaged), [case_map.values for case_map in maps])
        return image, Stored(label, damaged), previous, properties
