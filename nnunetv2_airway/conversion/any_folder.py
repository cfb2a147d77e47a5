"""The cases of any folder of CTs and one of labels."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from nnunetv2_airway.conversion.dicom_files import holds_dicom, modality_of
from nnunetv2_airway.conversion.layout import Case, case_of, folder_pairs, image_files, paired, walk
from nnunetv2_airway.io.errors import UserError, some
from nnunetv2_airway.io.images import VOXELS_OF

IMAGES, LABELS = "images(Tr)?|imgs?|cts?|scans?", "labels?(Tr)?|masks?|gt|segmentations?"
"""What folders of images and of labels are called."""


def find_pair(folder: Path) -> tuple[Path, Path]:
    """Find the one folder of images and the one of labels beside it.

    Raises:
        UserError: there is none, or several; they are listed.
    """
    pairs = folder_pairs([folder], IMAGES, LABELS)
    if len(pairs) != 1 or pairs[0][1] is None:
        found = "; ".join(f"{images} with {labels or 'none beside it'}" for images, labels in pairs) or "none"
        raise UserError(
            f"one folder of images beside one of labels is needed in {folder}, found: {found}. Give -i CTS -l LABELS, "
            f"one pair after the other into the same -d, or --images-only -o FOLDER for CTs to predict"
        )
    return pairs[0]


def find_cases(images: Path, labels: Path | None, *, suffix: str = "") -> list[Case]:
    """List the cases of a folder of CTs and one of labels; says what it passes over in them.

    Args:
        images: image files, a folder with DICOM files for each case, or the DICOM files of one case.
        labels: image files of the same names, with or without ``_0000``; may be the folder of the CTs where there is a
            suffix; None for CTs to predict.
        suffix: what the names of labels have behind those of CTs.

    Raises:
        UserError: no CT has the name of a label, or nothing tells the one from the other.
    """
    if images == labels and not suffix:
        raise UserError(f"{images} holds CTs and labels: say with --label-suffix what the labels' names end with")
    cts = image_files(images)
    entries = _entries(images)
    for folder in filter(Path.is_dir, entries):
        if any(holds_dicom(files) for _, files in walk([folder])):
            cts.setdefault(folder.name, []).append(folder)
    if not cts and holds_dicom(entries):
        cts[images.name] = [images]
    beside = {name for name in cts if suffix and name.endswith(suffix) and name.removesuffix(suffix) in cts}
    masks_beside = [file for name in beside for file in cts.pop(name)]
    if images not in cts.get(images.name, ()):
        _say_what_is_left(images, [*masks_beside, *(file for files in cts.values() for file in files)])
    if labels is None:
        return [case_of(name, files, None) for name, files in sorted(cts.items())]
    masks = {name.removesuffix(suffix): files for name, files in image_files(labels).items() if name.endswith(suffix)}
    wanted = cts.keys() - masks.keys() if labels != images else ()
    modalities = _dicom_labels(labels, suffix, wanted)
    if labels != images:
        _say_what_is_left(labels, [*(file for files in masks.values() for file in files), *modalities])
    for entry in modalities:
        masks.setdefault(_name_of(entry).removesuffix(suffix), []).append(entry)
    if cts and masks and not cts.keys() & masks.keys():
        raise UserError(
            f"no CT has the name of a label: {images} holds {some(sorted(cts))}, {labels} holds {some(sorted(masks))}; "
            f"names must be the same but for _0000 and --label-suffix"
        )
    return [
        replace(case, problem=_why_no_dicom(case.label, modalities[case.label])) if case.label in modalities else case
        for case in paired(cts, masks)
    ]


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _say_what_is_left(folder: Path, taken: Collection[Path]) -> None:
    other = [
        entry.name for entry in _entries(folder) if entry not in taken and not entry.name.lower().endswith(VOXELS_OF)
    ]
    if other:
        print(f"Passed over in {folder}, neither images nor DICOM of a case: {some(other)}")


def _dicom_labels(folder: Path, suffix: str, cases: Collection[str]) -> dict[Path, str]:
    """Find the DICOM labels of some cases in a folder of labels, with their Modality."""
    entries = [entry for entry in _entries(folder) if _name_of(entry).endswith(suffix)]
    found = {entry: modality_of(entry) for entry in entries if _name_of(entry).removesuffix(suffix) in cases}
    return {entry: modality for entry, modality in found.items() if modality}


def _name_of(entry: Path) -> str:
    return entry.name if entry.is_dir() else entry.stem


def _why_no_dicom(label: Path, modality: str) -> str:
    tool = {"SEG": "segimage2itkimage of dcmqi, or 3D Slicer,", "RTSTRUCT": "plastimatch convert, or 3D Slicer,"}
    return (
        f"{label} is DICOM with the Modality {modality}, labels are read as NIfTI, NRRD or MetaImage: convert it first "
        f"({tool.get(modality, 'dcm2niix, or 3D Slicer,')} does)"
    )
