"""Preprocessed cases looked at before an epoch is spent: can they be read, and do they hold what is to be learned?"""

from collections.abc import Sequence

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_airway.hounsfield import HounsfieldScale
from nnunetv2_airway.io.errors import UserError, some

HIGHEST_AIR = -300.0
"""Median HU inside the labels above which they cannot be airways: lumen is near -1000, small airways near -850."""
BLOCKS, HALF = 3, 16
"""How many blocks of a case are read, around labelled voxels, and half their side in voxels."""


def structure_values(labels: LabelManager) -> tuple[int, ...]:
    """Return the label's values that are the structure: those of the one region, or the one foreground label."""
    values = labels.foreground_regions[0] if labels.has_regions else labels.foreground_labels[0]
    return tuple(values) if isinstance(values, (list, tuple)) else (values,)


def declared_values(labels: LabelManager) -> tuple[int, ...]:
    """Return all values that a preprocessed label may have; -1 is what nnU-Net cuts away around the image."""
    ignored = [] if labels.ignore_label is None else [labels.ignore_label]
    return (-1, *map(int, labels.all_labels), *ignored)


def check_cases(trainer: nnUNetTrainer, *datasets: nnUNetBaseDataset) -> None:
    """Name cases that cannot be trained on, now and not hours later.

    Args:
        trainer: a ``PhasedTrainer``, which says what the voxels of its structure should be.
        datasets: of the preprocessed cases.

    Raises:
        RuntimeError: cases cannot be opened.
        UserError: labels hold nothing of the structure, or its voxels are not what the trainer wants.
    """
    values = structure_values(trainer.label_manager)
    damaged, empty, doubts = {}, {}, {}
    cases = [(dataset, case) for dataset in datasets for case in dataset.identifiers]
    for dataset, case in cases:
        try:
            data, label, _, properties = dataset.load_case(case)
            voxels = _some_voxels(data, label, properties, values)
        except Exception as error:
            damaged[case] = error
            continue
        if not len(voxels):
            empty[case] = label
        elif doubt := trainer.doubt_about(voxels):
            doubts[case] = doubt
    folder = trainer.preprocessed_dataset_folder
    if damaged:
        listed = "; ".join(f"{case}: {error or type(error).__name__}" for case, error in damaged.items())
        raise RuntimeError(
            f"preprocessed cases in {folder} are damaged: delete their files and run nnUNetv2_preprocess again "
            f"({listed})"
        )
    if empty and (trainer.every_case_has_structure or len(empty) == len(cases)):
        found = np.unique(next(iter(empty.values()))[:])
        raise UserError(
            f"labels of {some(list(empty))} in {folder} have no voxel of {_named(trainer.dataset_json, values)}; that "
            f"of {next(iter(empty))} holds {', '.join(f'{value:g}' for value in found if value >= 0)}. Mend these "
            f"labels in the raw data set, or take the cases out, and run nnUNetv2_plan_and_preprocess again"
        )
    if doubts:
        case, doubt = next(iter(doubts.items()))
        raise UserError(f"{some(list(doubts))} in {folder} cannot be trained on. {case}: {doubt}")


def why_no_air(voxels: np.ndarray, scale: HounsfieldScale) -> str:
    """Say why labelled voxels are no airway, empty where they may be.

    Args:
        voxels: intensities of a preprocessed case inside its label, (N,).
        scale: from these to HU.
    """
    median = float(np.median(voxels)) * scale.slope + scale.intercept
    lower, upper = scale.clipped_at or (-np.inf, np.inf)
    if lower >= HIGHEST_AIR:
        return (
            f"preprocessing clipped the CTs to [{lower:.0f}, {upper:.0f}] HU, in which no airway lies: the plans are "
            f'another data set\'s. Plan and preprocess again, with the channel "noNorm" in dataset.json'
        )
    if median <= HIGHEST_AIR and median < upper - 1:
        return ""
    return (
        f"the labelled airways have a median of {'at least ' * (median >= upper - 1)}{median:.0f} HU; air has about "
        f"-1000. Either the CTs are not in Hounsfield units (values from 0 to 4095 need their rescale intercept, "
        f"mostly -1024, added), or the labels do not belong to these CTs or are flipped. Mend the raw data set and run "
        f"nnUNetv2_plan_and_preprocess again"
    )


def _some_voxels(data, label, properties: dict, values: Sequence[int]) -> np.ndarray:
    """Read intensities of the structure in a few blocks around its voxels that nnU-Net has sampled; (N,)."""
    places = properties["class_locations"].get(values if len(values) > 1 else values[0])
    if places is None:  # dataset.json has been changed since
        places = np.argwhere(np.isin(label[:], values))
    found = [np.empty(0, np.float32)]
    for number in np.linspace(0, len(places) - 1, min(BLOCKS, len(places))).astype(int):
        box = tuple(slice(max(0, place - HALF), place + HALF) for place in places[number][1:])
        inside = np.isin(label[(0, *box)], values)
        found.append(data[(0, *box)][inside])
    return np.concatenate(found)


def _named(dataset_json: dict, values: Sequence[int]) -> str:
    """Name the structure as dataset.json does."""
    for name, own in dataset_json["labels"].items():
        if tuple(np.atleast_1d(own)) == tuple(values):
            return f"{name} ({', '.join(map(str, values))})"
    return ", ".join(map(str, values))
