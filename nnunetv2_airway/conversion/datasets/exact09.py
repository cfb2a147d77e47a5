"""EXACT'09: 20 training CTs, 20 test CTs, DICOM; labels come from BAS.

Slices are ordered by their position: file names are not in that order in several cases. Four neighbouring cases stay in
one fold, since they may be of one subject.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_airway.conversion.dicom_files import holds_dicom
from nnunetv2_airway.conversion.layout import Case, Layout, case_of, exact_subject, stem, walk

TRAINING = range(1, 21)


def find_cases(sources: Sequence[Path]) -> list[Case]:
    """List the folders CASE01 to CASE40 with the labels of the same name; those without one are to be predicted."""
    cts: dict[str, list[Path]] = defaultdict(list)
    labels: dict[str, list[Path]] = defaultdict(list)
    for folder, files in walk(sources):
        if re.fullmatch(r"CASE\d\d", folder.name, re.IGNORECASE) and any(holds_dicom(f) for _, f in walk([folder])):
            cts[folder.name.upper()].append(folder)
        for file in files:
            if found := re.fullmatch(r"(?:Airway_)?(CASE\d\d)", stem(file) or "", re.IGNORECASE):
                labels[found[1].upper()].append(file)
    labelled = bool(labels)
    return [
        case_of(
            name,
            cts[name],
            labels[name] or ([] if labelled and int(name[-2:]) in TRAINING else None),
            subject=exact_subject(name),
        )
        for name in sorted({**cts, **labels})
    ]


LAYOUT = Layout(
    command="EXACT09",
    number=503,
    files="EXACT'09 (Training/CASE01 to Testing/CASE40), with the folder of BAS's labels",
    find_cases=find_cases,
    reference="Lo et al., Extraction of airways from CT (EXACT'09), IEEE TMI 31(11):2093 (2012)",
    licence="EXACT'09 terms; no redistribution",
    notice="EXACT'09 has no public labels of its own, those of its training CTs come from BAS: -i EXACT09 BAS. The "
    "training CTs are part of ATM'22 and BAS as well, so do not test on them what was trained there.",
)
