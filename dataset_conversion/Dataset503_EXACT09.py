"""EXACT'09: 20 training CTs, 20 test CTs, DICOM; labels come from BAS.

Usage: ``python Dataset503_EXACT09.py -i EXACT09 BAS [-d 503]``, or ``nnUNetv2_airway_convert EXACT09 -i EXACT09 BAS``.
"""

from nnunetv2_airway.cli.convert import run_script
from nnunetv2_airway.conversion.datasets.exact09 import LAYOUT

if __name__ == "__main__":
    run_script(LAYOUT)
