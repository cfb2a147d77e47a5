import numpy as np
import pytest
from matplotlib.image import imread

from nnunetv2_airway.evaluation.projections import FALSE, FOUND, MISSED, draw_projections, project

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
    found, missed, false = PREDICTION & REFERENCE, REFERENCE & ~PREDICTION & 1, PREDICTION & ~REFERENCE & 1
    image = project([found, missed, false], [FOUND, MISSED, FALSE], axis)
    assert image.shape == (*np.delete(REFERENCE.shape, axis), 3)
    for pixel, colour in expected.items():
        assert image[pixel] == pytest.approx(colour)


def test_picture_is_to_scale_with_the_head_up(tmp_path):
    reference = np.zeros((20, 30, 60), bool)
    reference[14:17, 15, 10:40] = True  # 9 mm high and 30 mm wide, near the head
    reference[5, 15, 25] = True
    draw_projections(tmp_path / "a.png", np.zeros_like(reference), reference, (3.0, 1.0, 1.0), title="case")
    picture = imread(tmp_path / "a.png")[..., :3]
    coronal = picture[: int(picture.shape[0] * 0.85), : int(picture.shape[1] * 40 / 91)]
    red = (np.abs(coronal - MISSED) < 0.02).all(-1)
    wide = red.sum(1) > 0.5 * red.sum(1).max()  # rows of the bar, and not of the lone voxel below it
    bar = red[wide]
    height, width = wide.sum(), np.ptp(np.nonzero(bar.any(0))[0]) + 1
    assert width / height == pytest.approx(30 / 9, rel=0.1)
    assert np.nonzero(wide)[0].max() < np.nonzero(red.any(1))[0].max()  # the lone voxel is nearer to the feet


def test_an_empty_case_still_has_a_picture(tmp_path):
    empty = np.zeros((5, 6, 7), np.uint8)
    draw_projections(tmp_path / "a.png", empty, empty, (1.0, 1.0, 1.0), title="nothing")
    assert imread(tmp_path / "a.png").size > 0


def test_a_mark_stands_at_its_voxel_in_each_view(tmp_path):
    reference = np.zeros((20, 30, 60), bool)
    reference[14:17, 15, 10:40] = True
    pictures = []
    for marks in ({}, {"$7": (15, 15, 35)}):
        draw_projections(tmp_path / "a.png", ~reference, reference, (3.0, 1.0, 1.0), title="$^$", marks=marks)
        pictures.append(imread(tmp_path / "a.png")[..., :3])
    changed = (np.abs(pictures[0] - pictures[1]).max(-1) > 0.1)[: pictures[0].shape[0] * 9 // 10]  # without the legend
    columns = np.flatnonzero(changed.any(0)) / changed.shape[1]
    # widths of the panels: 60, 30 and 60 mm; the mark at 35.5 mm of 60, 15.5 of 30, and 35.5 of 60
    for expected in ((35.5) / 150, (60 + 15.5) / 150, (90 + 35.5) / 150):
        assert np.abs(columns - expected).min() < 0.03
    assert 30 < changed.sum() < 2000
