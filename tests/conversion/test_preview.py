from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread, imsave

from nnunetv2_airway.conversion.preview import draw_contact_sheet, draw_preview
from nnunetv2_airway.io.images import Grid

BOX = (slice(4, 30), slice(10, 60), slice(6, 50))


def colours(file) -> np.ndarray:
    return np.rint(imread(file)[..., :3] * 255).astype(int)


def like(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(image - colour).max(-1) < 40


def test_the_picture_shows_the_plane_with_most_airway_upright(tmp_path, scans, grid):
    hu, mask = (array.copy() for array in scans[0])
    draw_preview(tmp_path / "a.png", hu, grid, mask, BOX, title="a")
    image = colours(tmp_path / "a.png")
    label, box = like(image, (255, 176, 0)), like(image, (79, 179, 255))
    assert label.sum() > 20 and box.sum() > 100
    rows, columns = np.nonzero(label)
    assert rows.min() < 45  # the trachea leaves the volume at its head
    # the box: 26 of 40 planes of 2 mm, 44 of 64 columns of 1.2 mm, at one scale
    rows, columns = np.nonzero(box)
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(26 * 2 / (44 * 1.2), rel=0.03)
    hu[:, mask.sum((0, 2)).argmax()] = 400
    draw_preview(tmp_path / "b.png", hu, grid, mask, BOX, title="a")
    assert colours(tmp_path / "b.png").mean() > image.mean() + 40


@pytest.mark.parametrize("turned", ["RAI", "ASL", "SPR"])
def test_it_looks_the_same_in_every_orientation(tmp_path, scans, grid, turned):
    hu, mask = scans[1]
    inside = np.zeros(hu.shape, np.uint8)
    inside[BOX] = 1
    draw_preview(tmp_path / "a.png", hu, grid, mask, BOX, title="a")
    images = [sitk.DICOMOrient(grid.image(array), turned) for array in (hu, mask, inside)]
    hu, mask, inside = map(sitk.GetArrayFromImage, images)
    box = [slice(found[0], found[-1] + 1) for found in map(np.unique, np.nonzero(inside))]
    draw_preview(tmp_path / "b.png", hu, Grid.of(images[0]), mask, box, title="a")
    assert np.array_equal(colours(tmp_path / "a.png"), colours(tmp_path / "b.png"))


@pytest.mark.parametrize("mask", [None, "empty"])
def test_without_airways_it_shows_the_middle_of_the_box(tmp_path, scans, grid, mask):
    hu = scans[0][0].copy()
    empty = np.zeros(hu.shape, np.uint8) if mask else None
    hu[:, 35] = 400
    draw_preview(tmp_path / "a.png", hu, replace(grid, spacing=(1.0, 1.0, 1.0)), empty, BOX, title="a $^$ b")
    image = colours(tmp_path / "a.png")
    assert like(image, (255, 255, 255)).mean() > 0.25 and not like(image, (255, 176, 0)).any()


def test_the_sheet_holds_all_cases_in_order_and_words_for_those_without_a_picture(tmp_path):
    shades = {"a": 40, "b": 80, "d": 160, "e": 200}
    for case, shade in shades.items():
        imsave(tmp_path / f"{case}.png", np.full((240, 240, 3), shade, np.uint8))
    imsave(tmp_path / "e.png", np.full((20, 20, 3), 200, np.uint8))  # not one of ours
    draw_contact_sheet(tmp_path / "sheet.png", {case: (tmp_path / f"{case}.png", "why " * 200) for case in "abcde"})
    sheet = colours(tmp_path / "sheet.png")
    assert sheet.shape == (480, 720, 3)
    tiles = [sheet[top : top + 240, left : left + 240] for top in (0, 240) for left in (0, 240, 480)]
    for tile, shade in zip((tiles[0], tiles[1], tiles[3]), (40, 80, 160), strict=True):
        assert (tile == shade).all()
    for tile in (tiles[2], tiles[4]):
        assert like(tile, (255, 255, 255)).any() and np.median(tile) == 0
    assert not tiles[5].any()
