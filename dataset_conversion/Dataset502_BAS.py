"""Binary Airway Segmentation (BAS): labels of 70 LIDC-IDRI and 20 EXACT'09 CTs.

Usage: ``python Dataset502_BAS.py -i BAS LIDC-IDRI EXACT09 [-d 502]``, or ``nnUNetv2_airway_convert BAS -i ...``.
"""

from nnunetv2_airway.cli.convert import run_script
from nnunetv2_airway.conversion.datasets.bas import LAYOUT

if __name__ == "__main__":
    run_script(LAYOUT)
