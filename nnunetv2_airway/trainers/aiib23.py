"""The recipe of the team that won AIIB23 (MedibotTeam, in Nan et al., Medical Image Analysis 2024): more on Tang 2022.

Three losses, and weights for what the network of the first phase misses and where it breaks. Deviations: the team began
with a trained WingsNet and its predictions; here the first phase trains it, with Dice as in Tang 2022, and the
predictions are those of the mining. It repeated the worst third of the patches after each epoch; here half of the
patches hold a hard region, as in Tang 2022, and there are as many epochs as there.
"""

from nnunetv2_airway.losses.rows import AIIB23, DICE
from nnunetv2_airway.losses.weights import BREAKAGE, LOCAL_IMBALANCE, MISSED_CENTERLINE
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, RANDOM, Phase


class nnUNetTrainerWingsAIIB23(nnUNetTrainerWings):
    """Union loss, Dice and centerline recall; local imbalance, missed centerline and breakage."""

    plans_batch_size = 20
    phases = (
        Phase(100, DICE, sampling=RANDOM),
        Phase(50, AIIB23, (LOCAL_IMBALANCE, MISSED_CENTERLINE, BREAKAGE), HARD_SMALL_RANDOM),
    )
