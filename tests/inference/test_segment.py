"""Trees of CTs in memory, and what is none."""

import re

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_airway import segment
from nnunetv2_airway.conversion.region import region
from nnunetv2_airway.inference.predictor import AirwayPredictor, Settings, load_predictor
from nnunetv2_airway.inference.published import ORIENTATION
from nnunetv2_airway.inference.segment import find_tree, segment_image, why_no_tree
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.images import Grid

SPACING = (3.0, 2.3, 2.1)
STORED = ("LPS", "RAS", "SRP")
SEEN = dict(zip("SIPALR", (1.0, 1.0, 1.5, 1.5, 2.0, 2.0), strict=True))
"""Sides of a model's voxels, in mm, by where they point."""


def as_stored(ct: np.ndarray, letters: str) -> sitk.Image:
    image = sitk.GetImageFromArray(ct)
    image.SetSpacing(SPACING[::-1])
    return sitk.DICOMOrient(image, letters)


def tree_found(ct: np.ndarray, letters: str, model):
    image = as_stored(ct, letters)
    box, _, _ = region(image, None, margin=10.0)
    return find_tree(image, box, load_predictor(model, Settings()))


@pytest.mark.usefixtures("finds_trachea")
def test_arrays_and_images_give_their_like(ct, model):
    tree = segment(ct, model, SPACING)
    assert tree.shape == ct.shape and tree.dtype == np.uint8
    gas = (ct < -930) & (np.abs(np.arange(ct.shape[2]) - 93) < 35)
    assert 25 < tree.sum() * np.prod(SPACING) / 1000 < 50  # a trachea of 20 x 95 mm in the box, and main bronchi
    assert (gas & (tree > 0)).sum() > 0.9 * tree.sum()
    # stored in another orientation, it is the same tree
    turned = as_stored(ct, "RAI")
    found = segment(turned, load_predictor(model, Settings()))
    assert Grid.of(found) == Grid.of(turned)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS")), tree)


@pytest.mark.parametrize(
    ("seen", "stored"),
    [pytest.param("RAS", "LPS", marks=pytest.mark.slow), ("RAS", "SLP"), ("LPS", "PIR")],
)
def test_models_that_turn_cts_see_them_turned(seen, stored, ct, model, monkeypatch):
    """A model that calls airway the first voxels of each axis, as it sees them."""

    def corner(self, hu, spacing, grid):
        np.testing.assert_allclose(spacing, SPACING)
        self.spacing = (1.0, 1.5, 2.0)
        found = np.zeros(hu.shape, np.uint8)
        found[:12, :20, :30] = 1
        return found

    monkeypatch.setattr(AirwayPredictor, "segment_ct", corner)
    predictor = load_predictor(model, Settings())
    assert predictor.orientation == "LPS"  # of a published network
    if seen == "RAS":
        plans = predictor.plans_manager.plans
        predictor.plans_manager.plans = {name: plans[name] for name in plans if name != ORIENTATION}
        assert predictor.orientation == ""
        predictor.plans_manager.plans["image_reader_writer"] = "NibabelIOWithReorient"
    image = as_stored(ct, stored)
    tree = segment_image(image, AirwayPredictor.of(predictor))
    assert tree.spacing == tuple(SEEN[letter] for letter in stored[::-1])
    found = Grid.of(image).image(tree.mask)
    upright = sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS"))
    planes, rows, columns = (np.flatnonzero(upright.any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    assert upright.sum() == 12 * 20 * 30
    assert planes[0] < 30  # at the feet
    assert (rows[0] > 56, columns[0] > 93) == ((seen == "RAS",) * 2)  # at the back and the left


def test_what_is_no_ct_of_the_chest(ct, model):
    with pytest.raises(UserError, match="no lungs were found"):
        segment(ct[:22], model, SPACING)  # the belly
    with pytest.raises(UserError, match=r"mm high and .* mm wide: a CT of the whole chest is needed"):
        segment(ct[:38], model, SPACING)
    with pytest.raises(UserError, match=r"--scale 1 -1024 .*: ct = SLOPE \* ct \+ INTERCEPT"):
        segment((ct + 1024).astype(np.int16), model, SPACING)  # not in HU


def test_pieces_that_do_not_hang_on_the_tree_are_left_out_and_holes_filled(ct, model, monkeypatch):
    def pieces(self, hu, spacing, grid):
        found = np.zeros(hu.shape, np.uint8)
        found[20:40, 40:50, 50:60] = found[50:52, 40:50, 50:60] = 1
        found[30, 45, 55] = 0
        return found

    monkeypatch.setattr(AirwayPredictor, "segment_ct", pieces)
    tree = segment(ct, model, SPACING)
    assert tree.sum() == 2000 and len(np.unique(np.nonzero(tree)[0])) == 20


def test_what_is_no_tree_can_be_accepted(ct, model, monkeypatch):
    monkeypatch.setattr(AirwayPredictor, "segment_ct", lambda self, hu, spacing, grid: np.zeros(hu.shape, np.uint8))
    with pytest.raises(UserError, match="found no airway in it"):
        segment(ct, model, SPACING)
    assert not segment(ct, model, SPACING, accept=True).any()


@pytest.mark.parametrize(
    ("ct", "spacing", "settings", "words"),
    [
        (np.zeros((4, 5, 6)), None, None, "an array needs spacing"),
        (np.zeros((5, 6)), (1, 1, 1), None, "an array .* is needed, got .5, 6."),
        ([1], None, None, "got list"),
        (sitk.Image(4, 5, 6, sitk.sitkInt16), (1, 1, 1), None, "has a spacing of its own"),
        (sitk.Image(4, 5, sitk.sitkInt16), None, None, "one 3-D volume is needed"),
    ],
)
def test_what_cannot_be_read(ct, spacing, settings, words, model):
    with pytest.raises(UserError, match=words):
        segment(ct, model, spacing, settings=settings)


def test_predictors_of_ones_own(ct, model):
    predictor = nnUNetPredictor()
    with pytest.raises(UserError, match="has no model yet"):
        segment(ct, predictor, SPACING)
    with pytest.raises(UserError, match="leave out settings"):
        segment(ct, predictor, SPACING, settings=Settings())
    several = load_predictor(model, Settings())
    several.dataset_json = {**several.dataset_json, "labels": {"background": 0, "airway": 1, "lung": 2}}
    with pytest.raises(UserError, match="the predictor's model segments 2 structures"):
        segment(ct, several, SPACING)


def ball(radius: float, spacing=(2.0, 1.0, 1.5)) -> np.ndarray:
    axes = np.ogrid[tuple(slice(-int(radius / side) - 2, int(radius / side) + 3) for side in spacing)]
    return sum((axis * side) ** 2 for axis, side in zip(axes, spacing, strict=True)) < radius**2


@pytest.mark.parametrize(
    ("radius", "words"), [(3.0, "found only 0.1"), (17.0, ""), (20.0, "a ball of [34]. mm fits"), (45.0, "has 3.. ml")]
)
def test_sizes_of_trees(radius, words):
    said = why_no_tree(ball(radius), (2.0, 1.0, 1.5))
    assert re.search(words, said) if words else not said


def test_what_has_no_fork_is_no_tree():
    mask = np.zeros((30, 20, 20), np.uint8)
    mask[2:28, 8:12, 8:12] = 1
    assert "has no fork" in why_no_tree(mask, (2.0, 1.5, 1.0))


@pytest.mark.parametrize("stored", [pytest.param("LPS", marks=pytest.mark.slow), *STORED[1:]])
def test_a_lung_without_airways_is_pointed_out(stored, ct, model, monkeypatch):
    """The CT is turned first; the model finds what lies to the patient's right."""

    def right(self, hu, spacing, grid):
        found = np.zeros(hu.shape, np.uint8)
        found[20:62, 40:50, 20:40] = 1
        return found

    monkeypatch.setattr(AirwayPredictor, "segment_ct", right)
    tree = tree_found(ct, stored, model)
    assert tree.doubts == ["there are hardly any airways in the left lung"]


@pytest.mark.parametrize(
    ("wide", "stored"),
    [
        ("feet", "SRP"),
        ("head", "RAS"),
        *(pytest.param("feet", letters, marks=pytest.mark.slow) for letters in STORED[:2]),
    ],
)
def test_a_tree_upside_down_is_pointed_out(stored, wide, ct, model, monkeypatch):
    def found(self, hu, spacing, grid):
        found = np.zeros(hu.shape, np.uint8)
        found[20:62, 44:46, 30:-30] = 1
        found[slice(20, 25) if wide == "feet" else slice(57, 62), 42:48, 30:-30] = 1
        return found

    monkeypatch.setattr(AirwayPredictor, "segment_ct", found)
    tree = tree_found(ct, stored, model)
    assert not tree.problem
    assert [doubt.endswith("is the CT upside down?") for doubt in tree.doubts] == [True] * (wide == "feet")


@pytest.mark.long
def test_a_real_tree_agrees_with_the_published_one(real):
    """The ATM'22 organisers' baseline on a whole chest: 3 minutes on two CPU cores."""
    ct = sitk.ReadImage(str(real / "ct" / "LIDC-IDRI-0002.nii.gz"))
    found = sitk.GetArrayFromImage(segment(ct, real / "weights" / "atm22_baseline.pth")) > 0
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(real / "ct" / "LIDC-IDRI-0002_atm22_baseline.nii.gz"))) > 0
    assert 2 * np.count_nonzero(found & expected) / (found.sum() + expected.sum()) >= 0.98


def test_an_abdomen_has_no_tree(real):
    ct = sitk.ReadImage(str(real / "ct" / "abdomen.nii.gz"))
    with pytest.raises(UserError, match="a CT of the whole chest is needed"):
        segment(ct, real / "weights" / "atm22_baseline.pth")
