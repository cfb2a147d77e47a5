import numpy as np
import pytest
from matplotlib.image import imread

from nnunetv2_airway.evaluation.projections import FALSE, FOUND, MISSED, project, write_projections

REFERENCE, PREDICTION = np.zeros((4, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint8)
REFERENCE[0, 1, :] = 1  # a row along x: half found, half missed
PREDICTION[0, 1, :3] = 1
PREDICTION[2, 3, 4] = 1  # false


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (0, {(1, 0): FOUND, (1, 5): MISSED, (3, 4): FALSE, (0, 0): (1, 1, 1)}),
        (1, {(0, 2): FOUND, (0, 3): MISSED, (2, 4): FALSE, (3, 5): (1, 1, 1)}),
        (2, {(0, 1): np.mean([FOUND, MISSED], 0), (2, 3): FALSE, (1, 1): (1, 1, 1)}),
    ],
)
def test_colours_tell_found_missed_and_false(axis, expected):
    image = project(PREDICTION, REFERENCE, axis)
    assert image.shape == (*np.delete(REFERENCE.shape, axis), 3)
    for pixel, colour in expected.items():
        assert image[pixel] == pytest.approx(colour)


def test_picture_is_to_scale_with_the_head_up(tmp_path):
    reference = np.zeros((20, 30, 40), bool)
    reference[18, 15, 4:36] = True  # near the head
    write_projections(tmp_path / "a.png", np.zeros_like(reference), reference, (3.0, 1.0, 1.0), title="case")
    picture = imread(tmp_path / "a.png")
    red = (np.abs(picture[..., :3] - MISSED) < 0.02).all(-1)
    rows, columns = np.nonzero(red[:, : picture.shape[1] // 3][: int(picture.shape[0] * 0.85)])
    assert len(rows) > 0
    dark = (picture[..., :3] < 0.2).all(-1)[:, : picture.shape[1] // 3]
    frame = np.nonzero(dark.sum(1) > 0.5 * (columns.max() - columns.min()))[0]
    top, bottom = frame.min(), frame.max()
    assert rows.mean() < top + 0.25 * (bottom - top)
    # 32 voxels of 1 mm wide, one slice of 3 mm high
    assert (columns.max() - columns.min() + 1) / (rows.max() - rows.min() + 1) == pytest.approx(32 / 3, rel=0.15)
