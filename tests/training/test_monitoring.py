import math

import matplotlib.image
import numpy as np
import pytest

from nnunetv2_airway.losses.rows import DICE, TANG
from nnunetv2_airway.losses.weights import LOCAL_IMBALANCE
from nnunetv2_airway.training.monitoring import (
    LEAKAGE,
    LENGTH,
    PRECISION,
    checkpoint_scores,
    pseudo_metrics,
)
from nnunetv2_airway.training.pictures import draw_progress
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, Phase


def test_metrics_by_hand():
    found = pseudo_metrics(60, 20, 40, line_found=30, line=50)
    assert found == {LENGTH: 0.6, PRECISION: 0.75, LEAKAGE: 0.2}


def test_nothing_to_divide_by_is_nan():
    assert all(math.isnan(value) for value in pseudo_metrics(0, 0, 0, 0, 0).values())
    assert pseudo_metrics(0, 5, 10, 0, 3) == {LENGTH: 0, PRECISION: 0, LEAKAGE: 0.5}


def test_the_checkpoint_is_chosen_by_dice_length_and_precision_smoothed():
    log = {"mean_fg_dice": [0.3, 0.9, 0.6], LENGTH: [0.6, 0.9, np.nan], PRECISION: [0.9, 0.9, 0.9], LEAKAGE: [9, 9, 9]}
    assert checkpoint_scores(log) == pytest.approx([0.6, 0.9 * 0.6 + 0.1 * 0.9, 0.9 * 0.63 + 0.1 * 0.5])


def test_the_picture_shows_the_phases_also_of_the_epochs_to_come(tmp_path):
    phases = (Phase(3, DICE), Phase(4, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM))
    names = ("train_losses", "val_losses", "mean_fg_dice", LENGTH, PRECISION, LEAKAGE)
    pictures = []
    for epochs in (1, 4):
        log = {name: list(np.linspace(0.2, 0.9, epochs)) for name in names}
        file = tmp_path / f"{epochs}.png"
        draw_progress(file, log, phases)
        pictures.append(matplotlib.image.imread(file))
    assert pictures[0].shape == pictures[1].shape and np.abs(pictures[0] - pictures[1]).max() > 0.5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1.png", "4.png"]
