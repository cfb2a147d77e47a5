"""The folder that ``nnUNet_extTrainer`` points to: nnU-Net imports every module in it and looks for trainers."""

try:
    from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
    from nnunetv2_airway.trainers.wings_lib import (
        nnUNetTrainerWingsLIB,
        nnUNetTrainerWingsLIB_demo,
        nnUNetTrainerWingsLIBRoot,
    )
except ModuleNotFoundError as error:
    # a program started from here, in an environment without this package, inherits the variable: nothing to offer it
    if error.name != "nnunetv2_airway":
        raise
    __all__ = []
else:
    __all__ = [
        "nnUNetTrainerWings",
        "nnUNetTrainerWingsLIB",
        "nnUNetTrainerWingsLIBRoot",
        "nnUNetTrainerWingsLIB_demo",
    ]
