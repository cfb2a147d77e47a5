"""Binary Airway Segmentation (BAS): labels of 70 LIDC-IDRI and 20 EXACT'09 CTs.

Usage: ``python Dataset502_BAS.py -i BAS LIDC-IDRI EXACT09 [-d 502]``, or ``nnUNetv2_airway_convert BAS -i ...``.

CTs that BAS does not bring as files are looked for as DICOM in all folders given: LIDC-IDRI's by the SeriesInstanceUID
in the label's name, EXACT'09's by their folder CASE01 to CASE20.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_airway.conversion.dicom import series_folders
from nnunetv2_airway.conversion.layout import Case, Layout, exact_subject, stem, walk

DERIVED = "_clean_hu"
"""Files with this in their name are 8-bit pictures made from CTs."""
IMAGES = re.compile(r"images?(tr)?|imgs?|cts?|scans?|raw", re.IGNORECASE)
LABELS = re.compile(r"labels?(tr)?|masks?|gt|seg.*|airways?|annotations?", re.IGNORECASE)


def find_cases(sources: Sequence[Path]) -> list[Case]:
    """Pair labels with CTs, as files beside them or as DICOM."""
    images: dict[str, list[Path]] = defaultdict(list)
    labels: dict[str, list[Path]] = defaultdict(list)
    for source in sources:
        for folder, files in walk([source]):
            for file in files:
                if (name := stem(file)) is not None and DERIVED not in file.name:
                    (images if _is_image(file, folder.relative_to(source)) else labels)[name].append(file)
    folders = series_folders(sources) if labels.keys() - images.keys() else {}
    by_name = {folder.name.upper(): folder for folder in folders.values()}
    cases = []
    for name in sorted(images.keys() | labels.keys()):
        cts, masks = images[name], labels[name]
        exact = re.search(r"CASE\d\d$", name, re.IGNORECASE)
        if cts or not masks:
            ct, series = (cts or [None])[0], ""
        elif exact and exact[0].upper() in by_name:
            ct, series = by_name[exact[0].upper()], ""
        else:
            ct, series = folders.get(name), name if name in folders else ""
        cases.append(
            Case(name, ct, next(iter(masks), None), subject=_subject(name, ct), series=series,
                 problem=_problem(name, ct, cts, masks))
        )  # fmt: skip
    return cases


def _is_image(file: Path, folder: Path) -> bool:
    """Whether a file is a CT: by the folder nearest to it that tells, else by nnU-Net's ``_0000``."""
    for part in reversed(folder.parts):
        if IMAGES.fullmatch(part) or LABELS.fullmatch(part):
            return bool(IMAGES.fullmatch(part))
    return "_0000." in file.name


def _subject(name: str, ct: Path | None) -> str:
    patient = re.search(r"LIDC-IDRI-\d{4}", str(ct))
    return patient[0] if patient else exact_subject(name)


def _problem(name: str, ct: Path | None, cts: list[Path], masks: list[Path]) -> str:
    if len(cts) > 1 or len(masks) > 1:
        files = ", ".join(map(str, cts if len(cts) > 1 else masks))
        return f"{files}: which is CT and which is label is not known; put CTs into a folder images, labels into labels"
    if not masks:
        return f"there is no label of this name for {ct}"
    if ct is None:
        return (
            f"there is no CT for {masks[0]}: give the folder of LIDC-IDRI or EXACT'09 with -i as well, in which a "
            f"series {name} or a folder of this name must be"
        )
    return ""


LAYOUT = Layout(
    command="BAS",
    number=502,
    files="BAS (labels of LIDC-IDRI and EXACT'09 CTs), with the folders of these CTs",
    find_cases=find_cases,
    reference="Qin et al., IEEE TMI 40(6):1603 (2021); Zheng et al., IEEE TMI 40(9):2452 (2021)",
    licence="labels: as published with BAS; CTs: LIDC-IDRI CC BY 3.0, EXACT'09 no redistribution",
    notice="BAS, EXACT'09, LIDC-IDRI and ATM'22 have CTs in common: training on one of these sets and testing on "
    "another tests on training data unless common CTs are taken out.",
)

if __name__ == "__main__":
    from nnunetv2_airway.cli.convert import run_script

    run_script(LAYOUT)
