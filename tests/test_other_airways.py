"""Airways of others in a patient's CT: ``benchmarks/other_airways.py``."""

import sys

import numpy as np
import other_airways
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_airway.conversion.lungs import find_lungs
from nnunetv2_airway.io.images import Grid, write_image
from nnunetv2_airway.phantom.from_mask import read_mask
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize
from nnunetv2_airway.tree.components import bounding_box

SPACING = (3.0, 2.0, 2.2)
OPTIONS = PhantomOptions(shape=(88, 112, 120), spacing=SPACING, noise=20, lung_box=0)


@pytest.fixture(scope="module")
def patient() -> tuple[np.ndarray, np.ndarray]:
    """CT in the box of its lungs, and its airways."""
    ct, airway = synthesize(OPTIONS)
    box = bounding_box(ct != 0)
    return ct[box], airway[box] > 0


@pytest.fixture(scope="module")
def other() -> np.ndarray:
    return synthesize(OPTIONS, 1)[1] > 0


def test_airways_are_filled_with_what_is_beside_them():
    hu = np.full((20, 30, 60), 40, np.int16)
    hu[:, :, 30:] = -860
    own = np.zeros(hu.shape, bool)
    own[3:17, 8:11, 4:7] = own[5:8, 20:23, 50:53] = True
    hu[own] = -1000
    filled = other_airways.without_airways(hu, own, (1.0, 0.7, 0.8))
    assert np.allclose(filled[:, :, :30], 40, atol=1e-3) and np.allclose(filled[:, :, 30:], -860, atol=1e-3)


def test_lungs_that_would_hold_the_airways_fill_those_of_the_patient(other):
    lungs = np.zeros((60, 90, 140), bool)
    lungs[5:55, 10:85, 15:120] = True
    fitted = other_airways.fitted(other, lungs, SPACING)
    frame = read_mask(fitted, np.array(SPACING), np.random.default_rng(0)).frame
    assert frame.centre == pytest.approx(np.array((30, 47.5, 67.5)) * SPACING, abs=6)
    assert 2 * frame.half == pytest.approx(np.array((50, 75, 105)) * SPACING, rel=0.08)


def test_the_patient_has_the_airways_of_the_other_and_nothing_else_changes(patient, other):
    hu, own = patient
    ct, airway = other_airways.other_airways(hu, own, other, SPACING, np.random.default_rng(0))
    lungs = find_lungs(hu, SPACING)
    assert np.count_nonzero(airway) > 0.5 * np.count_nonzero(other_airways.fitted(other, lungs, SPACING))
    assert ndimage.label(airway)[1] == 1
    core = ndimage.binary_erosion(airway)
    gone = ndimage.binary_erosion(own) & (ndimage.distance_transform_edt(~airway, SPACING) > 6)
    assert core.sum() > 30 and ct[core].mean() < -960 and gone.sum() > 30
    assert ct[gone & ~lungs].mean() > hu[gone & ~lungs].mean() + 300
    far = (ndimage.distance_transform_edt(~airway, SPACING) > 12) & (ndimage.distance_transform_edt(~own, SPACING) > 12)
    assert far.sum() > 0.3 * far.size and np.array_equal(ct[far], hu[far])


def test_a_data_set_is_written_and_finished_cases_are_kept(patient, other, tmp_path, monkeypatch, in_this_process):
    hu, own = patient
    grid = Grid((2.2, 2.0, 3.0), (-100.0, 20.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    turned = {
        name: sitk.DICOMOrient(grid.image(array), "RAS") for name, array in (("ct", hu), ("tree", own * np.uint8(1)))
    }
    for name, image in {**turned, "other": grid.image(other.astype(np.uint8))}.items():
        write_image(image, tmp_path / f"{name}.nii.gz")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    line = "x -d 7 -name Other --ct {0}/ct.nii.gz {0}/tree.nii.gz --from-mask {0}/other.nii.gz -n 2"
    monkeypatch.setattr(sys, "argv", line.format(tmp_path).split())
    other_airways.main()
    folder = tmp_path / "Dataset007_Other"
    files = [folder / "imagesTr" / f"00{number}_ct_0000.nii.gz" for number in (0, 1)]
    cts = [sitk.ReadImage(str(file)) for file in files]
    label = sitk.ReadImage(str(folder / "labelsTr" / "000_ct.nii.gz"))
    assert cts[0].GetSize() == label.GetSize() == hu.shape[::-1] and cts[0].GetSpacing() == pytest.approx(
        (2.2, 2.0, 3.0)
    )
    assert cts[0].GetOrigin() == pytest.approx(grid.origin)
    arrays = [sitk.GetArrayFromImage(ct) for ct in cts]
    assert not np.array_equal(*arrays) and arrays[0][sitk.GetArrayFromImage(label) > 0].mean() < -850
    written = files[0].stat().st_mtime_ns
    files[1].unlink()
    other_airways.main()
    assert files[0].stat().st_mtime_ns == written and np.array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(files[1]))), arrays[1]
    )
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--vary", "0.1"])
    with pytest.raises(SystemExit, match=r"made with other options \(vary: 0\.25 there, 0\.1 now\)"):
        other_airways.main()
