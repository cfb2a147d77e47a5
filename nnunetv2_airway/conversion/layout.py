"""What a data set's files are: its cases, and the helpers with which a data set's script finds them."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_airway.images import ENDINGS

SOURCE_ENDINGS = (*ENDINGS, ".mhd")
"""Formats of volumes that can be converted, beside DICOM."""
SUBJECT_BLOCK = 4
"""Neighbouring EXACT'09 cases may be one subject: so many, by number, stay together, and five folds are even."""


@dataclass(frozen=True)
class Case:
    """Files of one case.

    Args:
        name: as it will be called in nnU-Net.
        ct: an image file, or a folder with a DICOM series.
        label: an image file; None for a case to predict.
        lungs: an image file of the lungs, airways may be left out in it.
        subject: whose CT it is, where the data set says so.
        series: UID of the DICOM series.
        problem: why the case cannot be converted, known from its files alone.
    """

    name: str
    ct: Path | None = None
    label: Path | None = None
    lungs: Path | None = None
    subject: str = ""
    series: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Layout:
    """A public data set.

    Args:
        command: the subcommand, and the name behind DatasetXXX_.
        number: the data set's default id.
        files: what was unpacked, in words.
        find_cases: lists the cases of the folders given with -i.
        reference: the paper to cite.
        licence: what is known of it.
        left_out: cases that are not converted, and why.
        notice: what whoever trains on it should know.
    """

    command: str
    number: int
    files: str
    find_cases: Callable[[Sequence[Path]], list[Case]]
    reference: str
    licence: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    notice: str = ""


def image_files(folder: Path) -> dict[str, Path]:
    """List a folder's image files by case, that is by name without ending and nnU-Net's ``_0000``, sorted.

    Raises:
        ValueError: two files of one case.
    """
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        name = stem(file)
        if name is None or not file.is_file():
            continue
        if name in files:
            raise ValueError(f"{folder} holds {files[name].name} and {file.name}: one file a case is needed")
        files[name] = file
    return files


def stem(file: Path) -> str | None:
    """Name of a case by that of its image file, None for what is no image."""
    ending = next((ending for ending in SOURCE_ENDINGS if file.name.lower().endswith(ending)), None)
    if ending is None or file.name.startswith("."):
        return None
    return file.name[: -len(ending)].removesuffix("_0000")


def subfolders(sources: Iterable[Path], names: str) -> Iterator[Path]:
    """Find folders by name, in the sources themselves and up to two levels below, sorted.

    Args:
        sources: where to look.
        names: regular expression that the whole name fits, in upper or lower case.
    """
    for source in sources:
        for pattern in ("*", "*/*", "*/*/*"):
            for folder in sorted(source.glob(pattern)):
                if folder.is_dir() and re.fullmatch(names, folder.name, re.IGNORECASE):
                    yield folder


def walk(sources: Iterable[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """List every folder below the sources with its files, sorted, without hidden ones."""
    for source in sources:
        for folder, below, files in os.walk(source):
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield Path(folder), [Path(folder, name) for name in sorted(files) if not name.startswith(".")]


def paired(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[Case]:
    """Pair CTs and labels of the same case; what has no counterpart becomes a case with that problem."""
    cases = []
    for name in sorted(images.keys() | labels.keys()):
        ct, label = images.get(name), labels.get(name)
        problem = ""
        if label is None:
            problem = f"there is no label of this name for {ct}"
        elif ct is None:
            problem = f"there is no CT of this name for {label}"
        cases.append(Case(name, ct, label, problem=problem))
    return cases


def paired_folders(sources: Sequence[Path], images: str, labels: str) -> list[Case]:
    """Pair what lies in an images folder and the labels folder beside it; both names as regular expressions."""
    cases = []
    for folder in subfolders(sources, images):
        beside = next(subfolders([folder.parent], labels), None)
        if beside is not None and beside.parent == folder.parent:
            cases += paired(image_files(folder), image_files(beside))
    return cases


def exact_subject(case: str) -> str:
    """Subject of an EXACT'09 case such as CASE01 or Airway_CASE01, empty for other names."""
    found = re.search(r"CASE_?(\d\d)$", case, re.IGNORECASE)
    first = (int(found[1]) - 1) // SUBJECT_BLOCK * SUBJECT_BLOCK + 1 if found else 0
    return f"EXACT'09 {first} to {first + SUBJECT_BLOCK - 1}" if found else ""
