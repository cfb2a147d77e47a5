"""ATM'22: 300 training CTs with labels, 50 validation CTs without.

Ten CTs of the second batch are unsigned 16-bit values without slope and intercept, 65535 for 3071.94 HU; they are
recognised by their content, not by their number.
"""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_airway.conversion.layout import Case, Layout, paired_folders


def find_cases(sources: Sequence[Path]) -> list[Case]:
    """List the cases of ``TrainBatch*/imagesTr`` with ``labelsTr``, and those of ``imagesVal``, as cases to predict."""
    return paired_folders(sources, "imagesTr", "labelsTr", alone="imagesVal")


LAYOUT = Layout(
    command="ATM22",
    number=501,
    files="ATM'22 (TrainBatch1, TrainBatch2 with imagesTr and labelsTr; imagesVal)",
    find_cases=find_cases,
    reference="Zhang et al., Multi-site, multi-domain airway tree modeling, Medical Image Analysis 90 (2023) 102957",
    licence="ATM'22 data use agreement, to be signed; no redistribution",
    left_out={"ATM_164": "excluded by the challenge: its label does not match its CT"},
    notice="20 of ATM'22's training CTs are EXACT'09's and others are LIDC-IDRI's: training on one of these sets and "
    "testing on another tests on training data unless common CTs are taken out.",
    lost_scale=(1 / 16, -1024.0),
)
