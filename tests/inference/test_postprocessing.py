import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.cli import postprocess
from nnunetv2_airway.inference.postprocessing import keep_airway_tree, postprocess_folder

pytestmark = pytest.mark.usefixtures("in_this_process")


def drawn(dtype=np.uint8, value=1) -> np.ndarray:
    """A hollow block of 5 x 6 x 7 with one enclosed hole, a tunnel that leads outside, and an island."""
    volume = np.zeros((12, 14, 16), dtype)
    volume[2:7, 2:8, 2:9] = value
    volume[4, 4, 4] = 0  # hole
    volume[2:5, 6, 6] = 0  # tunnel, open at plane 2
    volume[9:11, 10:12, 10:12] = value
    return volume


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 1), (np.int16, 3), (np.float32, 1)])
def test_largest_component_kept_and_holes_filled(dtype, value):
    volume = drawn(dtype, value)
    before = volume.copy()
    result = keep_airway_tree(volume)
    expected = before.copy()
    expected[9:11, 10:12, 10:12] = 0
    expected[4, 4, 4] = value
    assert result.dtype == dtype and np.array_equal(result, expected)
    assert np.array_equal(volume, before)


def test_voxels_that_touch_at_a_corner_hold_together():
    volume = np.zeros((4, 4, 4), np.uint8)
    volume[0, 0, 0] = volume[1, 1, 1] = volume[2, 2, 2] = 1
    volume[0, 3, 3] = 1
    result = keep_airway_tree(volume)
    assert result.sum() == 3 and result[0, 3, 3] == 0


def test_gas_that_is_larger_than_the_tree_is_left_out(tmp_path):
    mask = np.zeros((40, 24, 30), np.uint8)
    mask[2:38, 4:7, 5:8] = mask[20:22, 4:7, 5:26] = 1  # 432 voxels, 90 mm high and as wide as the gas
    tree = mask.copy()
    mask[1:9, 12:20, 14:22] = 1  # 512 voxels in 20 mm
    (tmp_path / "in").mkdir()
    sitk.WriteImage(oblique(mask), str(tmp_path / "in" / "case.nii.gz"))
    (outcome,) = postprocess_folder(tmp_path / "in", tmp_path / "out")
    assert (outcome.kept, outcome.removed) == (432, 512)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz"))), tree)
    assert np.array_equal(keep_airway_tree(mask), tree)


@pytest.mark.parametrize("axis", range(3))
def test_orientation_does_not_matter(axis):
    volume = np.random.default_rng(0).random((9, 11, 13)) > 0.7
    flipped = np.flip(keep_airway_tree(np.flip(volume, axis).astype(np.uint8)), axis)
    assert np.array_equal(flipped, keep_airway_tree(volume.astype(np.uint8)))


def test_empty_stays_empty():
    assert not keep_airway_tree(np.zeros((3, 4, 5), np.uint8)).any()


@pytest.mark.parametrize("volume", [np.array([[[1, 2]]]), np.ones((3, 3))])
def test_what_is_not_one_mask_is_refused(volume):
    with pytest.raises(ValueError, match="needed"):
        keep_airway_tree(volume)


def oblique(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-120.5, 33.25, 900))
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1))
    return image


@pytest.fixture
def folders(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    sitk.WriteImage(oblique(drawn()), str(source / "a.nii.gz"))
    sitk.WriteImage(oblique(np.zeros((4, 5, 6), np.uint8)), str(source / "empty.nrrd"))
    (source / "broken.nii.gz").write_text("no image")
    (source / "plans.json").write_text("{}")
    return source, tmp_path / "out"


def test_a_folder_keeps_geometry_type_and_names_and_goes_on_after_a_broken_file(folders):
    source, target = folders
    outcomes = {outcome.name: outcome for outcome in postprocess_folder(source, target)}
    assert {file.name for file in target.iterdir()} == {"a.nii.gz", "empty.nrrd"}
    for name in ("a.nii.gz", "empty.nrrd"):
        before, after = sitk.ReadImage(str(source / name)), sitk.ReadImage(str(target / name))
        assert after.GetPixelID() == before.GetPixelID()
        for read in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
            assert read(after) == pytest.approx(read(before))
    result = sitk.GetArrayFromImage(sitk.ReadImage(str(target / "a.nii.gz")))
    assert np.array_equal(result, keep_airway_tree(drawn()))
    outcome = outcomes["a.nii.gz"]
    assert (outcome.kept, outcome.removed, outcome.filled) == (np.count_nonzero(result) - 1, 8, 1)
    assert outcome.volume == pytest.approx(result.sum() * 0.7 * 0.8 * 2.5 / 1000)
    assert outcomes["empty.nrrd"].volume == 0 and not outcomes["empty.nrrd"].error
    assert outcomes["broken.nii.gz"].error


def test_what_removes_most_of_a_prediction_is_pointed_out(tmp_path, capsys):
    pieces = np.zeros((4, 40, 40), np.uint8)
    pieces[1:3, 1:20:3, 1:20:3] = 1
    whole = np.zeros_like(pieces)
    whole[1:3, 1:20] = 1
    for name, mask in (("pieces", pieces), ("whole", whole)):
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / "in" / f"{name}.nii.gz"))
    postprocess.main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")])
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert len(warnings) == 1 and warnings[0].startswith("pieces.nii.gz: WARNING: that is most of the prediction")


def test_predictions_are_never_overwritten(folders):
    with pytest.raises(ValueError, match="same folder"):
        postprocess_folder(folders[0], folders[0] / ".." / "in")


def test_a_folder_without_segmentations(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        postprocess_folder(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="there is no folder"):
        postprocess_folder(tmp_path / "missing", tmp_path / "out")
