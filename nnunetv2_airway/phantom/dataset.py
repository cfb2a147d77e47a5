"""Write phantoms as a complete nnU-Net raw data set."""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunetv2_airway.files import atomic_path, write_json
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize, synthesize_around

OPTIONS_FILE = "phantom_options.json"


def write_dataset(
    folder: Path,
    options: PhantomOptions,
    *,
    training: int,
    test: int,
    from_mask: Path | None = None,
    overwrite: bool = False,
    processes: int = 2,
) -> None:
    """Write ``imagesTr``, ``labelsTr``, ``imagesTs``, ``labelsTs`` and ``dataset.json``; existing cases are kept.

    Args:
        folder: the data set's folder, DatasetXXX_Name.
        options: how the phantoms look; the same options give the same files.
        training: number of training cases.
        test: number of held-out cases.
        from_mask: airway mask to build every CT around, instead of growing trees; its geometry replaces shape and
            spacing.
        overwrite: make existing cases again.
        processes: cases made at once.

    Raises:
        ValueError: the folder holds phantoms made with other options, or the mask cannot be used.
    """
    if training < 1 or test < 0:
        raise ValueError(f"at least 1 training case and 0 test cases are needed, got {training} and {test}")
    if from_mask is not None:
        # read once here, so that an unusable mask is reported before any work
        options = replace(options, **_geometry(_read_mask(from_mask)))
    record = json.loads(json.dumps({**asdict(options), "from_mask": str(from_mask) if from_mask else None}))
    record_file = folder / OPTIONS_FILE
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        if not record_file.exists():
            raise ValueError(f"{folder} exists and was not made by this command. Choose another -d or -name.")
        found = json.loads(record_file.read_text())
        differing = [
            f"{key}: {found.get(key)} there, {record[key]} now" for key in record if found.get(key) != record[key]
        ]
        if differing:
            raise ValueError(
                f"{folder} holds phantoms made with other options ({'; '.join(differing)}). Choose another -d or "
                f"-name, or make them all again with --overwrite."
            )
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(record_file, record)
    cases = list(_cases(folder, training, test))
    make = partial(_write_case, options=options, from_mask=from_mask, overwrite=overwrite)
    with get_context("spawn").Pool(max(1, min(processes, len(cases)))) as pool:
        for _ in tqdm(pool.imap_unordered(make, cases), total=len(cases), desc="phantoms"):
            pass
    write_json(
        folder / "dataset.json",
        {
            "name": folder.name,
            "description": "Synthetic chest CTs with their airway trees",
            "licence": "Apache-2.0",
            "channel_names": {"0": "noNorm"},
            "labels": {"background": 0, "airway": 1},
            "numTraining": training,
            "file_ending": ".nii.gz",
        },
    )


def _cases(folder: Path, training: int, test: int) -> Iterable[tuple[int, Path, Path]]:
    for index in range(training + test):
        part, name = ("Tr" if index < training else "Ts"), f"phantom_{index:03d}"
        yield index, folder / f"images{part}" / f"{name}_0000.nii.gz", folder / f"labels{part}" / f"{name}.nii.gz"


def _write_case(case: tuple[int, Path, Path], options: PhantomOptions, from_mask: Path | None, overwrite: bool) -> None:
    index, image_file, label_file = case
    if image_file.exists() and label_file.exists() and not overwrite:
        return
    if from_mask is None:
        ct, airway = (sitk.GetImageFromArray(array) for array in synthesize(options, index))
        for image in (ct, airway):
            image.SetSpacing(options.spacing[::-1])
    else:
        ct, airway = _around(_read_mask(from_mask), options, index)
    for image, file in ((ct, image_file), (airway, label_file)):
        with atomic_path(file) as temporary:
            sitk.WriteImage(image, str(temporary))


def _around(mask: sitk.Image, options: PhantomOptions, index: int) -> tuple[sitk.Image, sitk.Image]:
    """CT around a mask, both in the mask's own geometry; anatomy needs to know where head and back are."""
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(mask.GetDirection())
    upright = sitk.DICOMOrient(mask, "LPS")
    ct = sitk.GetImageFromArray(synthesize_around(sitk.GetArrayFromImage(upright), options, index))
    ct.CopyInformation(upright)
    ct = sitk.DICOMOrient(ct, orientation)
    ct.CopyInformation(mask)
    return ct, mask


def _read_mask(file: Path) -> sitk.Image:
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise ValueError(f"cannot read the airway mask {file}: {str(error).strip().splitlines()[-1]}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"the airway mask {file} must be one 3-D volume, got {image.GetDimension()} dimensions")
    mask = image > 0
    if not np.any(sitk.GetArrayViewFromImage(mask)):
        raise ValueError(f"the airway mask {file} is empty: a phantom needs a tree to be built around")
    return mask


def _geometry(mask: sitk.Image) -> dict[str, tuple]:
    upright = sitk.DICOMOrient(mask, "LPS")
    return {"shape": upright.GetSize()[::-1], "spacing": upright.GetSpacing()[::-1]}
