"""The folder that ``nnUNet_extTrainer`` points to: nnU-Net imports every module in it and looks for trainers."""

try:
    from nnunetv2_airway.trainers.aiib23 import nnUNetTrainerWingsAIIB23
    from nnunetv2_airway.trainers.airway import (
        nnUNetTrainerAirway,
        nnUNetTrainerAirwayLIB,
        nnUNetTrainerATM22Airway,
        nnUNetTrainerLIBRootSGD,
        nnUNetTrainerWingsAirway,
    )
    from nnunetv2_airway.trainers.branch_weighted import nnUNetTrainerWingsBranchWeighted
    from nnunetv2_airway.trainers.centerline_losses import nnUNetTrainerClDice, nnUNetTrainerSkeletonRecall
    from nnunetv2_airway.trainers.inverse_weighting import (
        nnUNetTrainerAsymmetricSimilarity,
        nnUNetTrainerFocal,
        nnUNetTrainerGeneralizedDice,
        nnUNetTrainerInverseWeightedAsymmetricSimilarity,
        nnUNetTrainerInverseWeightedBCE,
        nnUNetTrainerInverseWeightedDice,
        nnUNetTrainerInverseWeightedFocal,
        nnUNetTrainerWeightedCE,
    )
    from nnunetv2_airway.trainers.published import (
        nnUNetTrainerATM22Baseline,
        nnUNetTrainerWingsGULPublished,
        nnUNetTrainerWingsGULWide,
        nnUNetTrainerWingsLIBPublished,
    )
    from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
    from nnunetv2_airway.trainers.wings_lib import (
        nnUNetTrainerLIB,
        nnUNetTrainerWingsLIB,
        nnUNetTrainerWingsLIB_demo,
        nnUNetTrainerWingsLIBRoot,
    )
    from nnunetv2_airway.trainers.zheng import nnUNetTrainerGUL, nnUNetTrainerWingsGUL, nnUNetTrainerWingsGULRoot
except ModuleNotFoundError as error:
    # a program started from here, in an environment without this package, inherits the variable: nothing to offer it
    if error.name != "nnunetv2_airway":
        raise
    __all__ = []
else:
    __all__ = [name for name in dir() if name.startswith("nnUNetTrainer")]
