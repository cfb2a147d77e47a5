"""Binary Airway Segmentation (BAS): labels of 70 LIDC-IDRI and 20 EXACT'09 CTs.

CTs that BAS does not bring as files are looked for as DICOM in all folders given: LIDC-IDRI's by the SeriesInstanceUID
in the label's name, EXACT'09's by their folder CASE01 to CASE20.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunetv2_airway.conversion.dicom import series_folders
from nnunetv2_airway.conversion.layout import Case, Layout, case_of, exact_subject, stem, walk

DERIVED = "_clean_hu"
"""Files with this in their name are 8-bit pictures made from CTs."""
ADVICE = (
    "; give the folder of LIDC-IDRI or EXACT'09 with -i as well, which must hold the series or folder of this name. "
    "Where BAS brings CTs as files, they lie in a folder called images, or their names end in _0000"
)
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
                    inside = Path(source.name, folder.relative_to(source))
                    (images if _is_image(file, inside) else labels)[name].append(file)
    folders = series_folders(sources) if labels.keys() - images.keys() else {}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for found in folders.values():
        for folder in found:
            by_name[folder.name.upper()].append(folder)
    cases = []
    for name in sorted(images.keys() | labels.keys()):
        exact = re.search(r"CASE\d\d$", name, re.IGNORECASE)
        cts = images[name] or folders.get(name) or (by_name[exact[0].upper()] if exact else [])
        case = case_of(name, cts, labels[name], subject=_subject(name, cts), advice=ADVICE)
        cases.append(replace(case, series=name) if name in folders and not images[name] else case)
    return cases


def _is_image(file: Path, folder: Path) -> bool:
    """Whether a file is a CT: by the folder nearest to it that tells, else by nnU-Net's ``_0000``."""
    for part in reversed(folder.parts):
        if IMAGES.fullmatch(part) or LABELS.fullmatch(part):
            return bool(IMAGES.fullmatch(part))
    return "_0000." in file.name


def _subject(name: str, cts: Sequence[Path]) -> str:
    patient = re.search(r"LIDC-IDRI-\d{4}", str(cts[0])) if cts else None
    return patient[0] if patient else exact_subject(name)


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
