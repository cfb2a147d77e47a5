from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.conversion.labels import check_label, read_label
from nnunetv2_airway.io.images import Grid

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def case(tmp_path, scans, write, grid):
    """A CT on an oblique grid, its label, and a function that reads the label as it was stored in some way."""
    hu, mask = scans[0]
    grid = replace(grid, direction=OBLIQUE)
    ct = grid.image(hu)

    def read(array=mask, where=grid, **options):
        return read_label(write(tmp_path / "label.nrrd", array, where), ct, **options)

    return ct, mask, grid, read


@pytest.mark.parametrize("stored", [1, 2, 255, 0.0])
def test_a_label_is_binarised(case, stored):
    _, mask, _, read = case
    array = mask * np.uint8(stored) if stored else mask.astype(np.float32)
    found, notes = read(array)
    assert found.dtype == np.uint8 and np.array_equal(found, mask) and notes == []


def test_of_lumen_and_wall_the_lumen_can_be_taken(case):
    _, mask, _, read = case
    both = mask.copy()
    both[:20] *= 2
    found, notes = read(both)
    assert np.array_equal(found, mask)
    assert notes == ["label values 1, 2 all taken as airway; --lumen 1 would take 1 only"]
    found, notes = read(both, values=(1,))
    assert np.array_equal(found, both == 1) and notes == []
    with pytest.raises(ValueError, match=r"label\.nrrd holds none of the values \[3\] of --lumen, but 1, 2"):
        read(both, values=(3,))


def test_what_is_no_label_is_named(case):
    ct, mask, _, read = case
    with pytest.raises(ValueError, match="looks like a CT"):
        read(sitk.GetArrayFromImage(ct))
    with pytest.raises(ValueError, match="looks like a probability map"):
        read(mask * np.float32(0.7))


@pytest.mark.parametrize(
    ("field", "change", "apart"),
    [("origin", (0.05, 0, 0), 0.05), ("spacing", (0, 0, 0.002), 39 * 0.002), ("origin", (1e-4, 0, 0), None)],
)
def test_header_noise_is_repaired_from_the_ct_and_said(case, field, change, apart):
    _, mask, grid, read = case
    noisy = replace(grid, **{field: tuple(np.add(getattr(grid, field), change))})
    found, notes = read(where=noisy)
    assert np.array_equal(found, mask)
    expected = [f"header of the label repaired from the CT (voxels lay {apart:.2g} voxels apart)"] if apart else []
    assert notes == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [("origin", (-41.5, 33.25, -397.0)), ("spacing", (1.2, 1.0, 2.1)), ("direction", (1, 0, 0, 0, 1, 0, 0, 0, 1))],
)
def test_another_geometry_is_refused_unless_the_header_is_to_be_ignored(case, field, value):
    _, mask, grid, read = case
    other = replace(grid, **{field: value})
    with pytest.raises(ValueError, match=r"label\.nrrd: the geometry differs from the CT.*--ignore-label-header"):
        read(where=other)
    assert np.array_equal(read(where=other, ignore_header=True)[0], mask)


def test_another_size_is_always_refused(case):
    _, mask, _, read = case
    for options in ({}, {"ignore_header": True}):
        with pytest.raises(ValueError, match=r"size \(64, 72, 39\).*the CT has size \(64, 72, 40\)") as error:
            read(mask[1:], **options)
        assert "--ignore-label-header" not in str(error.value)  # it would not help


def test_a_label_stored_along_other_axes_is_turned(case):
    _, mask, grid, read = case
    turned = sitk.DICOMOrient(grid.image(mask), "RIA")
    found, notes = read(sitk.GetArrayFromImage(turned), Grid.of(turned))
    assert np.array_equal(found, mask)
    assert notes == ["label turned from RIA to the CT's LPS"]


def test_labels_that_fit_raise_no_doubt(scans):
    for hu, mask in scans:
        assert check_label(mask, hu) == ("", "")


def test_an_empty_label(scans):
    hu, mask = scans[0]
    with pytest.raises(ValueError, match="the label is empty"):
        check_label(0 * mask, hu)
    with pytest.raises(ValueError, match="the label holds 100% of the CT: it is inverted"):
        check_label(1 - mask, hu)


@pytest.mark.parametrize(
    ("axes", "words"),
    [(0, "the plane axis"), (1, "the row axis"), (2, "the column axis"), ((0, 2), "the plane and column axis")],
)
def test_a_flipped_label_is_recognised(scans, axes, words):
    for hu, mask in scans:
        problem, _ = check_label(np.flip(mask, axes), hu)
        level = hu[mask > 0].mean()
        assert f"mirrored along {words} at {level:.0f} HU" in problem


def test_a_label_outside_the_airways_is_recognised(scans):
    hu, mask = scans[0]
    problem, _ = check_label(np.roll(mask, 12, 1), hu)
    assert f"{hu[np.roll(mask, 12, 1) > 0].mean():.0f} HU on average" in problem and "another CT" in problem


def test_a_label_of_lung_is_doubtful_and_one_within_the_lumen_is_not():
    hu = np.full((20, 24, 26), -850, np.int16)
    mask = np.zeros(hu.shape, np.uint8)
    mask[5:15, 6:10, 7:10] = 1
    problem, doubt = check_label(mask, hu)
    assert not problem and "(-850 HU, -850 HU around)" in doubt
    assert check_label(mask, hu - 130) == ("", "")
