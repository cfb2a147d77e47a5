"""AIIB23: 120 training CTs of fibrotic lung disease.

Usage: ``python Dataset504_AIIB23.py -i UNPACKED [-d 504]``, or ``nnUNetv2_airway_convert AIIB23 -i UNPACKED``.
"""

from nnunetv2_airway.cli.convert import run_script
from nnunetv2_airway.conversion.datasets.aiib23 import LAYOUT

if __name__ == "__main__":
    run_script(LAYOUT)
