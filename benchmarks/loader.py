"""The row of the training loader: reading, placing and augmenting patches, with the centerline map."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from measure import Row, seconds
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_airway.hounsfield import HounsfieldScale
from nnunetv2_airway.training.augmentation import augment_in_range
from nnunetv2_airway.training.carry_maps import carry_maps
from nnunetv2_airway.training.maps.store import MapStore
from nnunetv2_airway.training.sampling.dataset import MappedDataset
from nnunetv2_airway.training.sampling.loader import PatchLoader

PATCH, BATCH = (128, 128, 128), 2
ANGLE = (-np.pi / 6, np.pi / 6)


def rows(mask: np.ndarray, spacing: tuple[float, float, float], name: str) -> Iterator[Row]:
    """List the row; arguments as in ``volumes.rows``."""
    with TemporaryDirectory() as folder:  # as long as the row is measured
        yield _row(*_preprocessed(Path(folder), mask, spacing), name)


def _row(source: nnUNetDatasetBlosc2, maps: MapStore, name: str) -> Row:
    labels = LabelManager({"background": 0, "airway": 1}, None)
    initial = tuple(int(side) for side in get_patch_size(PATCH, ANGLE, ANGLE, ANGLE, (0.85, 1.25)))
    theirs, ours = (nnUNetTrainer.get_training_transforms(PATCH, ANGLE, None, (0, 1, 2), False) for _ in range(2))
    ours = carry_maps(augment_in_range(ours, HounsfieldScale()), ("centerline",), foreground=(1,))

    def batches(loader, data, transforms):
        made = loader(data, BATCH, initial, PATCH, labels, 0.33, transforms=same_draws(transforms))

        def load():
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as in nnU-Net's loader processes
            for _ in range(4):
                next(made)
            torch.set_num_threads(threads)

        return seconds(load)

    mapped = MappedDataset(source, {"centerline": maps}, sampling=None)  # the patches are then the same
    return Row(
        f"training loader with the map, {4 * BATCH} patches of {PATCH[0]}^3 of {name}, one core",
        "nnUNetDataLoader without the map",
        ">= 0.85",
        lambda: batches(PatchLoader, mapped, ours),
        lambda: batches(nnUNetDataLoader, source, theirs),
        repeats=9,
    )


def same_draws(transforms: Callable[..., dict]) -> Callable[..., dict]:
    """Make the nth call augment as every other one's nth does: a blur or a rotation takes longer than the rest."""
    numbers = count()

    def augment(**patch: torch.Tensor) -> dict:
        number = next(numbers)
        np.random.seed(number)
        torch.manual_seed(number)
        return transforms(**patch)

    return augment


def _preprocessed(folder: Path, mask: np.ndarray, spacing: tuple[float, float, float]):
    """Save a case as nnU-Net does, and its maps."""
    cases = folder / "plans_3d_fullres"
    cases.mkdir()
    mask = mask > 0
    ct = np.random.default_rng(0).normal(-800, 40, (1, *mask.shape)).astype(np.float32)
    ct[0][mask] -= 150
    (blocks, chunks), (label_blocks, label_chunks) = (
        comp_blosc2_params(ct.shape, PATCH, bytes_per_pixel=size) for size in (4, 1)
    )
    voxels = np.argwhere(mask[None])
    chosen = voxels[np.random.default_rng(0).integers(0, len(voxels), 10_000)]
    nnUNetDatasetBlosc2.save_case(
        ct, mask[None].astype(np.int8), {"class_locations": {1: chosen}}, str(cases / "case"),
        chunks=chunks, blocks=blocks, chunks_seg=label_chunks, blocks_seg=label_blocks,
    )  # fmt: skip
    source = nnUNetDatasetBlosc2(str(cases))
    maps = MapStore(cases, spacing, (1,), "centerline")
    maps.prepare(source, ["case"], processes=1, progress=False)
    return source, maps
