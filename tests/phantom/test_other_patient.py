import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.phantom.other_patient import other_patient
from nnunetv2_airway.tree.components import bounding_box, count_components
from nnunetv2_airway.tree.parse import parse_tree


@pytest.fixture
def mask(fork, write_mask, tmp_path) -> sitk.Image:
    """A fork on an anisotropic, oblique grid."""
    write_mask(tmp_path / "fork.nii.gz", fork())
    return sitk.ReadImage(str(tmp_path / "fork.nii.gz"))


def volume(image: sitk.Image) -> float:
    return sitk.GetArrayViewFromImage(image).sum() * np.prod(image.GetSpacing())


def test_without_a_share_size_shape_and_place_stay(mask):
    same = other_patient(mask, np.random.default_rng(0), 0.0)
    assert same.GetSize() == mask.GetSize() and same.GetDirection() == pytest.approx(mask.GetDirection())
    own, other = (sitk.GetArrayFromImage(image) > 0 for image in (mask, same))
    assert 2 * (own & other).sum() / (own.sum() + other.sum()) > 0.95


def test_on_another_grid_it_lies_where_it_lay(mask):
    finer = other_patient(mask, np.random.default_rng(0), 0.0, (0.8, 0.8, 0.6))
    assert finer.GetSpacing() == pytest.approx((0.6, 0.8, 0.8))
    back = sitk.GetArrayFromImage(sitk.Resample(finer, mask, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
    own = sitk.GetArrayFromImage(mask) > 0
    assert 2 * (own & back).sum() / (own.sum() + back.sum()) > 0.9


def test_patients_differ_in_size_and_shape_and_can_be_made_again(mask):
    patients = [other_patient(mask, np.random.default_rng(seed), 0.3) for seed in range(8)]
    again = other_patient(mask, np.random.default_rng(3), 0.3)
    assert np.array_equal(*(sitk.GetArrayViewFromImage(image) for image in (patients[3], again)))
    heights = [each.GetSize()[2] / mask.GetSize()[2] for each in patients]
    assert 0.6 < min(heights) < 0.95 and 1.05 < max(heights) < 1.5
    assert len({round(volume(each)) for each in patients}) == 8
    assert all(count_components(sitk.GetArrayViewFromImage(each)) == 1 for each in patients)
    branches = [parse_tree(sitk.GetArrayFromImage(each)).num_branches for each in patients]
    assert min(branches) >= parse_tree(sitk.GetArrayFromImage(mask)).num_branches
    for each in patients:  # the evaluation takes the whole label
        label = sitk.GetArrayFromImage(each) > 0
        assert np.count_nonzero(parse_tree(label).labels[label]) == label.sum()


def test_an_oblique_grid_is_scaled_along_its_own_axes(mask):
    """The same patient, turned: the same voxels."""
    upright = sitk.GetImageFromArray(sitk.GetArrayFromImage(mask))
    upright.SetSpacing(mask.GetSpacing())
    turned = sitk.GetImageFromArray(sitk.GetArrayFromImage(mask))
    turned.CopyInformation(mask)
    larger = [other_patient(image, np.random.default_rng(1), 0.3) for image in (upright, turned)]
    assert larger[0].GetSize() == larger[1].GetSize()
    box = [bounding_box(sitk.GetArrayViewFromImage(image) > 0) for image in larger]
    for first, second in zip(*box, strict=True):
        assert first.start == pytest.approx(second.start, abs=8) and first.stop == pytest.approx(second.stop, abs=8)


def test_what_is_too_coarse_is_refused(mask):
    with pytest.raises(ValueError, match="finer --spacing"):
        other_patient(mask, np.random.default_rng(0), 0.0, (90, 90, 90))
