"""AeroPath: 27 CTs with labels of airways and lungs.

The lung box is that of the data set's own lung label.
"""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_airway.conversion.layout import Case, Layout, subfolders
from nnunetv2_airway.io.images import ENDINGS


def find_cases(sources: Sequence[Path]) -> list[Case]:
    """List the folders 1 to 27, also below ``data``."""
    cases = []
    for folder in subfolders(sources, r"\d+"):
        name = folder.name
        ct, label, lungs = (
            next((file for ending in ENDINGS if (file := folder / f"{name}_CT_HR{part}{ending}").is_file()), None)
            for part in ("", "_label_airways", "_label_lungs")
        )
        missing = " and ".join(what for what, file in (("CT", ct), ("label of the airways", label)) if file is None)
        cases.append(Case(name, ct, label, lungs, problem=f"{folder} has no {missing}" if missing else ""))
    return sorted(cases, key=lambda case: int(case.name))


LAYOUT = Layout(
    command="AeroPath",
    number=505,
    files="AeroPath (1/1_CT_HR.nii.gz to 27, with _label_airways and _label_lungs)",
    find_cases=find_cases,
    reference="Stoverud et al., AeroPath: an airway segmentation benchmark dataset, arXiv 2311.01138",
    licence="as published with AeroPath",
)
