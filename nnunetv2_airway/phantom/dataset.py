"""Write phantoms as a complete nnU-Net raw data set."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.images import Grid, orientation, read_volume, write_image
from nnunetv2_airway.io.parallel import finished_cases
from nnunetv2_airway.io.raw_data import prepare_own, write_dataset_json
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize, synthesize_around
from nnunetv2_airway.phantom.other_patient import other_patient

OPTIONS_FILE = "phantom_options.json"


def write_dataset(
    folder: Path,
    options: PhantomOptions,
    *,
    training: int,
    test: int,
    from_masks: Sequence[Path] = (),
    spacing: tuple[float, float, float] | None = None,
    overwrite: bool = False,
    processes: int = 2,
) -> None:
    """Write ``imagesTr``, ``labelsTr``, ``imagesTs``, ``labelsTs`` and ``dataset.json``; existing cases are kept.

    Args:
        folder: the data set's folder, DatasetXXX_Name.
        options: how the phantoms look; the same options give the same files.
        training: number of training cases.
        test: number of held-out cases.
        from_masks: airway masks to build the CTs around in turn, instead of growing trees; shape and spacing are those
            of the mask.
        spacing: (z, y, x) in mm to which such masks are brought.
        overwrite: remove the folder's phantoms first, whatever their options.
        processes: cases made at once.

    Raises:
        UserError: the folder holds other phantoms or other data, its id is taken, or the mask cannot be used.
    """
    if min(training, test) < 0 or not training + test:
        raise UserError(f"at least 1 case is needed, got {training} training and {test} test cases")
    for file in from_masks:  # so that an unusable mask is reported before any work
        _read_mask(file)
    given = {
        **asdict(options), "training": training, "test": test,
        "from_masks": [str(file.absolute()) for file in from_masks],
        "mask_spacing": spacing,
    }  # fmt: skip
    record = json.loads(json.dumps(given))
    prepare_own(folder, folder / OPTIONS_FILE, record, overwrite=overwrite)
    cases = {case[1].name: (case, options, tuple(from_masks), spacing) for case in _cases(folder, training, test)}
    for _, _, error in finished_cases(_write_case, cases, processes=processes, description="phantoms"):
        if error is not None:
            raise error
    write_dataset_json(
        folder,
        training=training,
        description="Synthetic chest CTs with their airway trees",
        licence="Apache-2.0",
    )


def _cases(folder: Path, training: int, test: int) -> Iterable[tuple[int, Path, Path]]:
    for index in range(training + test):
        part, name = ("Tr" if index < training else "Ts"), f"phantom_{index:03d}"
        yield index, folder / f"images{part}" / f"{name}_0000.nii.gz", folder / f"labels{part}" / f"{name}.nii.gz"


def _write_case(
    case: tuple[int, Path, Path],
    options: PhantomOptions,
    from_masks: Sequence[Path],
    spacing: tuple[float, float, float] | None,
) -> None:
    index, image_file, label_file = case
    if image_file.exists() and label_file.exists():
        return
    if from_masks:
        file = from_masks[index % len(from_masks)]
        mask = _read_mask(file)
        try:
            if options.vary or spacing:
                mask = other_patient(mask, np.random.default_rng([options.seed, index, 1]), options.vary, spacing)
            own = replace(options, **_geometry(mask))
        except UserError as error:
            raise UserError(f"{label_file.name}, around {file}: {error}") from error
        ct, airway = _around(mask, own, index)
    else:
        ct, airway = (sitk.GetImageFromArray(array) for array in synthesize(options, index))
        for image in (ct, airway):
            image.SetSpacing(options.spacing[::-1])
    for image, file in ((ct, image_file), (airway, label_file)):
        write_image(image, file)


def _around(mask: sitk.Image, options: PhantomOptions, index: int) -> tuple[sitk.Image, sitk.Image]:
    """CT around a mask, both in the mask's own geometry; anatomy needs to know where head and back are."""
    upright = sitk.DICOMOrient(mask, "LPS")
    ct = Grid.of(upright).image(synthesize_around(sitk.GetArrayFromImage(upright), options, index))
    ct = sitk.DICOMOrient(ct, orientation(mask))
    ct.CopyInformation(mask)
    return ct, mask


def _read_mask(file: Path) -> sitk.Image:
    image = read_volume(file)
    if np.min(sitk.GetArrayViewFromImage(image)) < 0:
        raise UserError(f"{file} holds values below 0, as a CT does; --from-mask needs a mask, airway where > 0")
    mask = image > 0
    if not np.any(sitk.GetArrayViewFromImage(mask)):
        raise UserError(f"the airway mask {file} is empty: a phantom needs a tree to be built around")
    return mask


def _geometry(mask: sitk.Image) -> dict[str, tuple]:
    upright = sitk.DICOMOrient(mask, "LPS")
    return {"shape": upright.GetSize()[::-1], "spacing": upright.GetSpacing()[::-1]}
