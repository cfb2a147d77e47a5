"""AeroPath: 27 CTs with labels of airways and lungs.

Usage: ``python Dataset505_AeroPath.py -i UNPACKED [-d 505]``, or ``nnUNetv2_airway_convert AeroPath -i UNPACKED``.
"""

from nnunetv2_airway.cli.convert import run_script
from nnunetv2_airway.conversion.datasets.aeropath import LAYOUT

if __name__ == "__main__":
    run_script(LAYOUT)
