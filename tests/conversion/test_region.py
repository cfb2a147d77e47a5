from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.conversion.region import region
from nnunetv2_airway.io.images import Grid

GRID = Grid((2.1, 2.3, 3.0), (-195.0, -130.0, -300.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def spans(box) -> list[tuple[int, int]]:
    return [(span.start, span.stop) for span in box]


@pytest.fixture(scope="module")
def lungs() -> np.ndarray:
    mask = np.zeros((110, 112, 186), np.uint8)
    mask[30:85, 31:80, 40:150] = 1
    mask[50, 50, 50] = 3
    return mask


def airways(*corners: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((110, 112, 186), np.uint8)
    for corner in corners:
        mask[corner] = 1
    return mask


@pytest.fixture(scope="module")
def ct(lungs) -> sitk.Image:
    return GRID.image(np.zeros(lungs.shape, np.int16))


def test_the_margin_is_in_mm_and_the_trachea_above_is_held(ct, lungs):
    box, source, doubts = region(ct, airways((60, 60, 60), (108, 50, 90)), margin=7.0, lungs=lungs)
    assert spans(box) == [(27, 109), (27, 84), (36, 154)]  # 7 mm are 3, 4 and 4 voxels
    assert (source, doubts) == ("label", [])
    box, _, _ = region(ct, None, margin=400.0, lungs=lungs)
    assert spans(box) == [(0, 110), (0, 112), (0, 186)]


@pytest.mark.parametrize(
    ("corner", "mm"), [((20, 60, 60), 7 * 3.0), ((60, 100, 60), 17 * 2.3), ((60, 60, 30), 6 * 2.1)]
)
def test_airways_outside_the_lungs_are_held_and_pointed_out(ct, lungs, corner, mm):
    box, _, (doubt,) = region(ct, airways((60, 60, 60), corner), margin=7.0, lungs=lungs)
    assert all(span.start <= place < span.stop for span, place in zip(box, corner, strict=True))
    assert f"airways reach {mm:.0f} mm out of the lungs' box" in doubt


def test_the_head_is_above_whatever_the_orientation(lungs):
    down = replace(GRID, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    turned = down.image(np.zeros(lungs.shape, np.int16))
    above, below = airways((60, 60, 60), (5, 50, 90)), airways((60, 60, 60), (108, 50, 90))
    assert region(turned, above, margin=7.0, lungs=lungs)[2] == []
    assert "airways reach" in region(turned, below, margin=7.0, lungs=lungs)[2][0]


def test_lungs_that_are_too_flat_are_pointed_out(ct, lungs):
    flat = lungs.copy()
    flat[65:] = 0
    _, _, (doubt,) = region(ct, None, margin=7.0, lungs=flat)
    assert "only 105 mm high, but 231 mm wide" in doubt


def test_both_bases_consolidated_are_pointed_out(chest):
    hu, lungs = chest()
    hu = hu.copy()
    hu[:55][lungs[:55]] = 20
    _, source, (doubt,) = region(GRID.image(hu), None, margin=10.0)
    assert source == "found" and "may be consolidated" in doubt


@pytest.mark.parametrize("turned", ["LPS", "RAI", "ASL"])
@pytest.mark.parametrize(
    ("kept", "end"), [(np.s_[45:], "feet"), (np.s_[:70], "head"), (np.s_[:, :, 60:], "right"), (np.s_[:], None)]
)
def test_a_ct_that_ends_inside_the_lungs_is_pointed_out(lungs, turned, kept, end):
    label = sitk.DICOMOrient(GRID.image(np.ascontiguousarray(lungs[kept])), turned)
    ct = Grid.of(label).image(np.zeros(label.GetSize()[::-1], np.int16))
    doubts = region(ct, None, margin=7.0, lungs=sitk.GetArrayFromImage(label))[2]
    assert any(f"ends inside the lungs: {end} (100%)" in doubt for doubt in doubts) == (end is not None)


def test_a_ct_that_ends_inside_the_lungs_that_are_looked_for_is_pointed_out(chest):
    hu, _ = chest("table")
    assert not any("ends inside" in doubt for doubt in region(GRID.image(hu), None, margin=7.0)[2])
    for kept, end in ((slice(45, None), "feet"), (slice(70), "head")):
        doubts = region(GRID.image(hu[kept]), None, margin=7.0)[2]
        assert any(f"the CT ends inside the lungs: {end} (" in doubt for doubt in doubts)
