"""What a data set's files are: its cases, and the helpers with which a data set's script finds them."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_airway.io.images import ending_of

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
        lost_scale: slope and intercept that some of its CTs have lost.
    """

    command: str
    number: int
    files: str
    find_cases: Callable[[Sequence[Path]], list[Case]]
    reference: str
    licence: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    notice: str = ""
    lost_scale: tuple[float, float] | None = None


def image_files(folder: Path) -> dict[str, list[Path]]:
    """List a folder's image files by case, that is by name without ending and nnU-Net's ``_0000``, sorted."""
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        name = stem(file)
        if name is not None and not file.is_dir():
            files.setdefault(name, []).append(file)
    return files


def stem(file: Path) -> str | None:
    """Name of a case by that of its image file, None for what is no image."""
    ending = ending_of(file)
    if ending is None:
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
    """List every folder below the sources with its files, sorted, without hidden ones; links are followed once."""
    seen = set()
    for source in sources:
        for folder, below, files in os.walk(source, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield Path(folder), [Path(folder, name) for name in sorted(files) if not name.startswith(".")]


def case_of(
    name: str, cts: Sequence[Path], labels: Sequence[Path] | None, *, subject: str = "", advice: str = ""
) -> Case:
    """Make a case of the files that have its name.

    Args:
        name: of the case.
        cts: image files, or folders with DICOM files.
        labels: image files; None where there are to be none.
        subject: see ``Case``.
        advice: what to do where there is no CT.

    Returns:
        The case; where a file is missing or there are several, with that problem, and without what is not certain.
    """
    problem = ""
    if len(cts) > 1 or len(labels or ()) > 1:
        several = cts if len(cts) > 1 else labels
        problem = (
            f"there are several files of this name, {', '.join(map(str, several))}: take away or rename all but one"
        )
    elif not cts:
        problem = f"there is no CT of this name for {(labels or [name])[0]}{advice}"
    elif labels is not None and not labels:
        problem = f"there is no label of this name for {cts[0]}"
    ct, label = (only[0] if len(only) == 1 else None for only in (cts, labels or ()))
    return Case(name, ct, label, subject=subject, problem=problem)


def paired(images: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]]) -> list[Case]:
    """Pair CTs and labels of the same case."""
    return [case_of(name, images.get(name, ()), labels.get(name, ())) for name in sorted(images.keys() | labels.keys())]


def folder_pairs(sources: Sequence[Path], images: str, labels: str) -> list[tuple[Path, Path | None]]:
    """Find images folders, each with the labels folder beside it or None; both names as regular expressions."""
    pairs = []
    for folder in subfolders(sources, images):
        beside = (other for other in sorted(folder.parent.iterdir()) if re.fullmatch(labels, other.name, re.IGNORECASE))
        pairs.append((folder, next((other for other in beside if other.is_dir()), None)))
    return pairs


def paired_folders(sources: Sequence[Path], images: str, labels: str, *, alone: str = "") -> list[Case]:
    """Pair what lies in images folders and in the labels folders beside them; all names as regular expressions.

    What lies in folders called ``alone`` is to predict.
    """
    cases = []
    for folder, beside in folder_pairs(sources, images, labels):
        cases += paired(image_files(folder), image_files(beside) if beside else {})
    for folder in subfolders(sources, alone) if alone else ():
        cases += [case_of(name, cts, None) for name, cts in image_files(folder).items()]
    return cases


def exact_subject(case: str) -> str:
    """Subject of an EXACT'09 case such as CASE01 or Airway_CASE01, empty for other names."""
    found = re.search(r"CASE_?(\d\d)$", case, re.IGNORECASE)
    first = (int(found[1]) - 1) // SUBJECT_BLOCK * SUBJECT_BLOCK + 1 if found else 0
    return f"EXACT'09 {first} to {first + SUBJECT_BLOCK - 1}" if found else ""
