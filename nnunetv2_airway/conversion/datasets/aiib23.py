"""AIIB23: 120 training CTs of fibrotic lung disease."""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_airway.conversion.layout import Case, Layout, paired_folders


def find_cases(sources: Sequence[Path]) -> list[Case]:
    """Pair ``img`` with ``gt``, or ``image`` with ``label``."""
    return paired_folders(sources, "img|images?", "gt|labels?")


LAYOUT = Layout(
    command="AIIB23",
    number=504,
    files="AIIB23 (AIIB23_Train_T1 with img and gt)",
    find_cases=find_cases,
    reference="Nan et al., Medical Image Analysis (2024), doi 10.1016/j.media.2024.103253",
    licence="AIIB23 data use agreement",
)
