"""nnU-Net's data set, seen through maps: one more label channel for each, and voxels to place patches around.

As label channels maps are read, padded and cropped as int16; as image channels, as float32, that took twice as long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunetv2_airway.training.maps.store import MapReader, Stored
from nnunetv2_airway.training.schedule import Sampling


@dataclass(frozen=True)
class WithMaps:
    """A label (C, Z, Y, X) with maps (Z, Y, X) as further channels; read from disk when sliced, as int16."""

    label: Stored
    maps: Sequence[Stored | None]
    """None is 0 everywhere."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C + number of maps, Z, Y, X)."""
        return (self.label.shape[0] + len(self.maps), *self.label.shape[1:])

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        channels, *place = box
        if channels != slice(None):
            raise IndexError(f"only whole channels can be read, got {channels}")
        label = self.label[box]
        nothing = np.zeros((1, *label.shape[1:]), np.uint8)
        maps = (nothing if values is None else values[tuple(place)][None] for values in self.maps)
        return np.concatenate((label, *maps), dtype=np.int16, casting="unsafe")


@dataclass(frozen=True)
class MappedDataset:
    """A data set for ``PatchLoader``.

    Args:
        dataset: nnU-Net's.
        maps: of all its cases, by name; None is 0 everywhere.
        sampling: what the patches of a batch must hold; None leaves that to nnU-Net.
        hard: mined voxels (N, 3) by case.
    """

    dataset: nnUNetBaseDataset
    maps: Mapping[str, MapReader | None]
    sampling: Sampling | None
    hard: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def identifiers(self) -> list[str]:
        """The cases."""
        return self.dataset.identifiers

    def load_case(self, identifier: str) -> tuple[Stored, WithMaps, np.ndarray | None, dict]:
        """Load a case as nnU-Net does; with a sampling, ``class_locations`` holds voxels by kind of patch as well."""
        image, label, previous, properties = self.dataset.load_case(identifier)
        maps = {name: store and store.read(identifier) for name, store in self.maps.items()}
        if self.sampling is not None:
            points = {"hard": self.hard.get(identifier, ())}
            for case_map in filter(None, maps.values()):
                points.update(case_map.points)
            properties = {**properties, "class_locations": {**properties["class_locations"], **points}}
        damaged = (
            f"the preprocessed CT or label of case {identifier} is damaged: delete this case's preprocessed files, run "
            f"nnUNetv2_preprocess again, and go on with --c"
        )
        label = WithMaps(Stored(label, damaged), [case_map and case_map.values for case_map in maps.values()])
        return Stored(image, damaged), label, previous, properties
