"""ATM'26, track 1: 299 training CTs with labels, those of ATM'22 less one, with the same traps.

Its containers exchange CTs as MetaImage in ``images/lung-ct``, and trees in ``images/binary-airway-segmentation``.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunetv2_airway.conversion.datasets import atm22
from nnunetv2_airway.conversion.layout import Case, paired_folders


def find_cases(sources: Sequence[Path]) -> list[Case]:
    """Pair images folders with labels folders; ``imagesVal``, ``imagesTs`` and ``lung-ct`` hold CTs to predict."""
    return paired_folders(sources, "images(Tr)?", "labels(Tr)?", alone="images(Val|Ts)|lung-ct")


LAYOUT = replace(
    atm22.LAYOUT,
    command="ATM26",
    number=506,
    files="ATM'26 (the folder above imagesTr and labelsTr, or above several of such; imagesVal, imagesTs or lung-ct)",
    find_cases=find_cases,
    reference="ATM'26, atm26.grand-challenge.org; of its CTs: " + atm22.LAYOUT.reference,
    licence="ATM'26 data use agreement, to be signed; no redistribution",
    notice="ATM'26's training CTs are ATM'22's, of which 20 are EXACT'09's and others are LIDC-IDRI's: training on one "
    "of these sets and testing on another tests on training data unless common CTs are taken out.",
)
