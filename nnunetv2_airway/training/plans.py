"""What the airway trainers ask of nnU-Net's plans, and what they write into them."""

from collections.abc import Callable, Sequence
from copy import deepcopy

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_airway.io.errors import UserError


def fit_patch_size(patch_size: Sequence[int], image_size: Sequence[float], divisor: Sequence[int]) -> list[int]:
    """Shrink a patch to an image: each axis the largest multiple of what the network needs that fits.

    Args:
        patch_size: wanted size in voxels, each axis a multiple of its divisor.
        image_size: median size of the preprocessed images in voxels, same axis order.
        divisor: how often the network halves each axis, as a power of two.

    >>> fit_patch_size((128, 128, 128), image_size=(90.5, 400, 410), divisor=(8, 8, 8))
    [88, 128, 128]

    Raises:
        UserError: an axis of the patch is not a multiple of its divisor, or an image axis is shorter than it.
    """
    divisor = tuple(int(axis) for axis in divisor)
    if len(patch_size) != 3 or any(
        axis < factor or axis % factor for axis, factor in zip(patch_size, divisor, strict=True)
    ):
        raise UserError(
            f"a patch size of three multiples of {divisor} is needed, because that is how often the network halves "
            f"the patch; got {tuple(patch_size)}. Change plans_patch_size of the trainer."
        )
    if any(axis < factor for axis, factor in zip(image_size, divisor, strict=True)):
        raise UserError(
            f"images of at least {divisor} voxels are needed; the median size after resampling in these plans is "
            f"{tuple(image_size)}. Plan with a smaller target spacing (nnUNetv2_plan_experiment "
            f"-overwrite_target_spacing)."
        )
    return [
        min(wanted, int(size) // factor * factor)
        for wanted, size, factor in zip(patch_size, image_size, divisor, strict=True)
    ]


def check_binary(plans: dict, configuration: str, dataset_json: dict, *, trainer: str) -> None:
    """Refuse what cannot be trained, before anything is written.

    Args:
        plans: nnU-Net's.
        configuration: name of a configuration in them.
        dataset_json: of the data set.
        trainer: its name.

    Raises:
        NotImplementedError: 2d configuration, cascade, or more than one foreground class.
    """
    manager = PlansManager(plans)
    resolved = manager.get_configuration(configuration)
    if len(resolved.patch_size) != 3:
        raise NotImplementedError(f"{trainer} is 3-D and cannot train configuration {configuration}: use 3d_fullres")
    if resolved.previous_stage_name is not None:
        raise NotImplementedError(
            f"{trainer} takes no segmentation of a previous stage, so it cannot train the cascade {configuration}: use "
            f"3d_fullres"
        )
    labels = manager.get_label_manager(dataset_json)
    foreground = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    if len(foreground) != 1:
        raise NotImplementedError(
            f"{trainer} segments one structure, and dataset.json has {len(foreground)} foreground "
            f"{'regions' if labels.has_regions else 'labels'} ({dataset_json['labels']}). Merge them into one label, "
            f"or declare one region over them, and preprocess again."
        )


def fit_patches(
    plans: dict,
    configuration: str,
    *,
    patch_size: Sequence[int],
    batch_size: int,
    divisor_of: Callable[[ConfigurationManager], Sequence[int]],
    trainer: str,
) -> tuple[dict, str]:
    """Return a copy of the plans with the recipe's patch and batch size, and a line for the log that says so.

    Args:
        plans: nnU-Net's.
        configuration: name of a configuration in them.
        patch_size: wanted, in voxels.
        batch_size: wanted.
        divisor_of: from the configuration to what each axis of a patch must be a multiple of.
        trainer: its name.

    Raises:
        UserError: see ``fit_patch_size``.
    """
    plans = deepcopy(plans)
    resolved = PlansManager(plans).get_configuration(configuration)
    fitted = fit_patch_size(patch_size, resolved.median_image_size_in_voxels, divisor_of(resolved))
    note = (
        f"Patches of {fitted} voxels, {batch_size} a batch: plans_patch_size = {tuple(patch_size)}, fitted to the "
        f"images, and "
        f"plans_batch_size = {batch_size} of {trainer} decide, not the plans, which say {resolved.patch_size} and "
        f"{resolved.batch_size}"
    )
    plans["configurations"][configuration] |= {"patch_size": fitted, "batch_size": batch_size}
    return plans, note
