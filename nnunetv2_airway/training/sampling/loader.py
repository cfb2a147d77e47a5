"""nnU-Net's patch loader, with patches placed around chosen voxels.

Papers: Tang 2022, sections 1.3 and 2.1; Zheng 2021, section IV-B ("generated a patch containing it"): the chosen voxel
lies at a random place inside the final patch, not at its centre.
"""

from collections.abc import Sequence

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunetv2_airway.training.ranks import all_gather, rank, ranks

FALLBACK = {"hard": "small", "small": "random", "centerline": "random"}
"""The kind of patch that takes the place of one for which a case has no voxel."""


def patch_around(
    voxel: Sequence[int], shape: Sequence[int], final_patch: Sequence[int], initial_patch: Sequence[int]
) -> list[int]:
    """Place a patch so that its final part holds a voxel, anywhere in it with equal probability.

    Args:
        voxel: (plane, row, column).
        shape: of the case.
        final_patch: size of what the network sees: the centre of the initial patch.
        initial_patch: size of what is loaded for augmentation.

    Returns:
        Lowest corner of the initial patch, which may lie outside the case. The final patch lies inside the case along
        every axis that is long enough, and holds the whole axis otherwise.

    The draws come from ``numpy.random``, as nnU-Net's own. Where augmentation zooms in or rotates (each in a fifth of
    the patches), a voxel near the rim can still leave the patch; where every patch is rotated within 15 degrees, about
    one voxel in eight does.
    """
    corner = []
    for at, length, final, initial in zip(voxel, shape, final_patch, initial_patch, strict=True):
        low, high = sorted((0, length - final))
        start = np.random.randint(max(low, at - final + 1), min(high, at) + 1)
        corner.append(int(start - (initial // 2 - final // 2)))
    return corner


class PatchLoader(nnUNetDataLoader):
    """Load batches from a ``MappedDataset`` in the shares of its ``sampling``; under DDP this rank's part of them."""

    def __init__(self, data, batch_size: int, *args, **kwargs):
        super().__init__(data, batch_size, *args, **kwargs)
        if data.sampling is None:
            return  # as nnU-Net does
        self.rank, self.ranks, self.whole_batch = rank(), ranks(), sum(all_gather(batch_size))
        self.kinds: list[str] = []  # of the batch that is being made
        self.get_do_oversample = self._kind_of_patch

    def _kind_of_patch(self, index: int) -> str:
        """What nnU-Net asks for each patch of a batch, and hands to ``get_bbox`` as ``force_fg``."""
        if index == 0:
            self.kinds = self._data.sampling.kinds(
                self.whole_batch, np.random.uniform(), rank=self.rank, ranks=self.ranks
            )
        return self.kinds[index]

    def get_bbox(self, data_shape, force_fg, class_locations, overwrite_class=None, verbose=False):
        """Place a patch of the kind ``force_fg``: lower and upper corner; a random one as nnU-Net does."""
        if self._data.sampling is None:
            return super().get_bbox(data_shape, force_fg, class_locations, overwrite_class, verbose)
        kind = force_fg
        while kind in FALLBACK and not len(class_locations[kind]):
            kind = FALLBACK[kind]
        if kind not in FALLBACK:
            return super().get_bbox(data_shape, False, class_locations, overwrite_class, verbose)
        voxels = class_locations[kind]
        corner = patch_around(
            voxels[np.random.randint(len(voxels))], data_shape, self.final_patch_size, self.patch_size
        )
        return corner, [start + size for start, size in zip(corner, self.patch_size, strict=True)]
