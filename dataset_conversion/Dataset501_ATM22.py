"""ATM'22: 300 training CTs with labels, 50 validation CTs without.

Usage: ``python Dataset501_ATM22.py -i UNPACKED [-d 501]``, or ``nnUNetv2_airway_convert ATM22 -i UNPACKED``.
"""

from nnunetv2_airway.cli.convert import run_script
from nnunetv2_airway.conversion.datasets.atm22 import LAYOUT

if __name__ == "__main__":
    run_script(LAYOUT)
