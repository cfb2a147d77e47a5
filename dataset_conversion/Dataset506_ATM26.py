"""ATM'26, track 1: 299 training CTs with labels, those of ATM'22 less one.

Usage: ``python Dataset506_ATM26.py -i UNPACKED [-d 506]``, or ``nnUNetv2_airway_convert ATM26 -i UNPACKED``.
"""

from nnunetv2_airway.cli.convert import run_script
from nnunetv2_airway.conversion.datasets.atm26 import LAYOUT

if __name__ == "__main__":
    run_script(LAYOUT)
