"""What the airway trainers ask of nnU-Net's plans, and what they write into them."""

from collections.abc import Sequence
from copy import deepcopy

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_airway.architectures.wingsnet import DOWNSAMPLING

HIGHEST_AIR = -300.0
"""Median HU inside the labels above which they cannot be airways: lumen is near -1000, small airways near -850."""


def fit_patch_size(patch_size: Sequence[int], image_size: Sequence[float]) -> list[int]:
    """Shrink a patch to an image: each axis the largest multiple of 8 that fits.

    Args:
        patch_size: wanted size in voxels, each axis a multiple of 8.
        image_size: median size of the preprocessed images in voxels, same axis order.

    Raises:
        ValueError: an axis of the patch is not a multiple of 8, or an image axis is shorter than 8 voxels.
    """
    if len(patch_size) != 3 or any(axis < DOWNSAMPLING or axis % DOWNSAMPLING for axis in patch_size):
        raise ValueError(
            f"a patch size of three multiples of {DOWNSAMPLING} is needed, because WingsNet halves the patch three "
            f"times; got {tuple(patch_size)}. Change plans_patch_size of the trainer."
        )
    if min(image_size) < DOWNSAMPLING:
        raise ValueError(
            f"images of at least {DOWNSAMPLING} voxels along each axis are needed; the median size after resampling "
            f"in these plans is {tuple(image_size)}. Plan with a smaller target spacing "
            f"(nnUNetv2_plan_experiment -overwrite_target_spacing)."
        )
    return [
        min(wanted, int(size) // DOWNSAMPLING * DOWNSAMPLING)
        for wanted, size in zip(patch_size, image_size, strict=True)
    ]


def check_air(intensity_properties: dict[str, dict[str, float]]) -> None:
    """Refuse data whose airways are not air in Hounsfield units, before hours of training.

    Args:
        intensity_properties: the plans' ``foreground_intensity_properties_per_channel``, measured inside the labels.

    Raises:
        ValueError: the median inside the labels is above ``HIGHEST_AIR``.
    """
    median = intensity_properties.get("0", {}).get("median")
    if median is not None and median > HIGHEST_AIR:
        raise ValueError(
            f"the labelled airways have a median intensity of {median:.0f}; air has about -1000 HU. Either the CTs are "
            f"not in Hounsfield units (values from 0 to 4095 need their rescale intercept, mostly -1024, added), or "
            f"the labels do not belong to these CTs or are flipped. Mend the raw data set and preprocess again."
        )


def fit_plans(
    plans: dict, configuration: str, dataset_json: dict, *, patch_size: Sequence[int], batch_size: int
) -> dict:
    """Return a copy of the plans with the recipe's patch and batch size, or say why these plans cannot be used.

    Raises:
        NotImplementedError: 2d configuration, cascade, or more than one foreground class.
        ValueError: see ``fit_patch_size`` and ``check_air``.
    """
    plans = deepcopy(plans)
    manager = PlansManager(plans)
    resolved = manager.get_configuration(configuration)
    if len(resolved.patch_size) != 3:
        raise NotImplementedError(
            f"airway trainers are 3-D and cannot train configuration {configuration}: use 3d_fullres"
        )
    if resolved.previous_stage_name is not None:
        raise NotImplementedError(
            f"airway trainers take one CT and no segmentation of a previous stage, so they cannot train the cascade "
            f"{configuration}: use 3d_fullres"
        )
    labels = manager.get_label_manager(dataset_json)
    foreground = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    if len(foreground) != 1:
        raise NotImplementedError(
            f"airway trainers segment one structure, and dataset.json has {len(foreground)} foreground "
            f"{'regions' if labels.has_regions else 'labels'} ({dataset_json['labels']}). Merge them into one label, "
            f"or declare one region over them, and preprocess again."
        )
    check_air(plans.get("foreground_intensity_properties_per_channel", {}))
    target = plans["configurations"][configuration]
    target["patch_size"] = fit_patch_size(patch_size, resolved.median_image_size_in_voxels)
    target["batch_size"] = batch_size
    return plans
