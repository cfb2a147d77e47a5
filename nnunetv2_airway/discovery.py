"""Tell nnU-Net where this package's trainers are.

nnU-Net searches the folders named in the environment variable ``nnUNet_extTrainer`` and imports every module in
them. A start-up file in site-packages (see setup.py) imports the package when Python starts, so this module imports
nothing that Python has not loaded by then. It forgets the package again, so that a program that sets the variable
itself registers by importing the package.
"""

import os

VARIABLE = "nnUNet_extTrainer"
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nnunet_ext")  # noqa: PTH118, PTH120, PTH100


def register() -> None:
    """Append this package's trainer folder to ``nnUNet_extTrainer``; the user's own folders stay first."""
    folders = [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    if FOLDER not in folders:
        os.environ[VARIABLE] = os.pathsep.join([*folders, FOLDER])
