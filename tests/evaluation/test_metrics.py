import numpy as np
import pytest

from nnunetv2_airway.evaluation.metrics import centerline_recall, dice


def tube(length: int) -> np.ndarray:
    mask = np.zeros((60, 9, 11), np.uint8)
    mask[5 : 5 + length, 3:6, 4:7] = 1
    return mask


def test_dice_by_hand():
    assert dice(tube(20), tube(30)) == pytest.approx(2 * 20 / 50)
    assert dice(tube(20), np.zeros_like(tube(20))) == 0
    assert dice(tube(0), tube(0)) == 1


def test_centerline_recall_is_a_length_not_a_volume():
    reference = tube(40)
    reference[5:45, 1:8, 2:9] = 1
    thin = np.zeros_like(reference)
    thin[5:25, 4, 5] = 1  # half the axis, a tiny share of the volume
    assert centerline_recall(thin, reference) == pytest.approx(0.5, abs=0.05)
    assert centerline_recall(reference, reference) == 1
    assert np.isnan(centerline_recall(thin, np.zeros_like(thin)))


@pytest.mark.parametrize("metric", [dice, centerline_recall])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match=r"\(60, 9, 11\) and \(60, 9, 10\)"):
        metric(tube(5), tube(5)[..., :-1])
