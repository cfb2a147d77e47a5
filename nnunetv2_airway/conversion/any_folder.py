"""The cases of any folder of CTs and one of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_airway.conversion.dicom import holds_dicom
from nnunetv2_airway.conversion.layout import Case, case_of, folder_pairs, image_files, paired, walk
from nnunetv2_airway.io.errors import UserError

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
    """List the cases of a folder of CTs and one of labels; says what it passes over in the former.

    Args:
        images: image files, a folder with DICOM files for each case, or the DICOM files of one case.
        labels: image files of the same names, with or without ``_0000``; None for CTs to predict.
        suffix: what the names of labels have behind those of CTs.

    Raises:
        UserError: no CT has the name of a label.
    """
    cts = image_files(images)
    entries = sorted(entry for entry in images.iterdir() if not entry.name.startswith("."))
    for folder in filter(Path.is_dir, entries):
        if any(holds_dicom(files) for _, files in walk([folder])):
            cts.setdefault(folder.name, []).append(folder)
    if not cts and holds_dicom(entries):
        cts[images.name] = [images]
    known = {file for files in cts.values() for file in files}
    other = [entry.name for entry in entries if entry not in known and entry.suffix.lower() not in (".raw", ".zraw")]
    if other and images not in known:
        print(
            f"Passed over in {images}, neither images nor DICOM: {', '.join(other[:10])}{', ...' * (len(other) > 10)}"
        )
    if labels is None:
        return [case_of(name, files, None) for name, files in sorted(cts.items())]
    masks = _labels(labels, suffix)
    if cts and masks and not cts.keys() & masks.keys():
        raise UserError(
            f"no CT has the name of a label: {images} holds {_some(cts)}, {labels} holds {_some(masks)}; names must be "
            f"the same but for _0000 and --label-suffix"
        )
    return paired(cts, masks)


def _labels(folder: Path, suffix: str) -> dict[str, Sequence[Path]]:
    return {name.removesuffix(suffix): files for name, files in image_files(folder).items() if name.endswith(suffix)}


def _some(files: Mapping[str, Sequence[Path]]) -> str:
    return ", ".join(sorted(files)[:3]) + (", ..." if len(files) > 3 else "")
