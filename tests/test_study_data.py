"""The data of the study, put together by ``benchmarks/study_data.py``."""

import sys

import numpy as np
import pytest
import SimpleITK as sitk
import study_data

from nnunetv2_airway.io.images import Grid, write_image

GRID = Grid((0.8, 0.7, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, body and airway of a block of tissue with a vertical tube, in air, 0 outside a box."""
    body, tube, box = (np.zeros((7, 40, 50), bool) for _ in range(3))
    box[:, 2:38, 3:47] = True
    body[:, 8:32, 8:42] = True
    tube[:, 15:21, 20:26] = True
    hu = np.where(body & ~tube, 40, -1000)
    return np.where(box, hu, 0).astype(np.int16), body, tube


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))

    def write(*arguments: object):
        monkeypatch.setattr(sys, "argv", ["study_data.py", *map(str, arguments)])
        study_data.main()

    return write


def array(file) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_cts_are_kept_thickened_and_joined_without_the_air_around(write, tmp_path):
    hu, body, tube = scan()
    write_image(GRID.image(hu), tmp_path / "ct_0000.nii.gz")
    write_image(GRID.image(tube.astype(np.uint8)), tmp_path / "tree.nii.gz")
    write("-d", 7, "-name", "Cts", "--ct", tmp_path / "ct_0000.nii.gz", tmp_path / "tree.nii.gz", "--slices", 2, 3)
    write("-d", 8, "-name", "Both", "--join", 7)
    expected = np.where(body, hu, 0)
    for folder, prefix in (("Dataset007_Cts", ""), ("Dataset008_Both", "7_")):
        names = {file.name for file in (tmp_path / folder / "labelsTr").iterdir()}
        assert names == {f"{prefix}{name}.nii.gz" for name in ("ct", "ct_2mm", "ct_3mm")}
        assert np.array_equal(array(tmp_path / folder / "imagesTr" / f"{prefix}ct_0000.nii.gz"), expected)
        thick = sitk.ReadImage(str(tmp_path / folder / "imagesTr" / f"{prefix}ct_3mm_0000.nii.gz"))
        assert thick.GetSpacing() == pytest.approx((0.8, 0.7, 3.0)) and thick.GetSize() == (50, 40, 2)
        assert np.array_equal(sitk.GetArrayFromImage(thick), expected[:2])
        assert np.array_equal(array(tmp_path / folder / "labelsTr" / f"{prefix}ct_3mm.nii.gz"), tube[:2])


def test_the_air_around_can_stay(write, tmp_path):
    hu, _, tube = scan()
    write_image(GRID.image(hu), tmp_path / "ct.nii.gz")
    write_image(GRID.image(tube.astype(np.uint8)), tmp_path / "tree.nii.gz")
    write("-d", 7, "-name", "A", "--keep-air", "--ct", tmp_path / "ct.nii.gz", tmp_path / "tree.nii.gz", "--slices", 2)
    assert np.array_equal(array(tmp_path / "Dataset007_A" / "imagesTr" / "ct_0000.nii.gz"), hu)
    thick = sitk.ReadImage(str(tmp_path / "Dataset007_A" / "imagesTr" / "ct_2mm_0000.nii.gz"))
    assert thick.GetPixelID() == sitk.sitkInt16 and np.array_equal(sitk.GetArrayFromImage(thick), hu[:3])


def test_held_out_cases_stay_apart(write, tmp_path):
    hu, _, tube = scan()
    write_image(GRID.image(hu), tmp_path / "ct.nii.gz")
    write_image(GRID.image(tube.astype(np.uint8)), tmp_path / "tree.nii.gz")
    write("-d", 7, "-name", "Cts", "--held-out", "--ct", tmp_path / "ct.nii.gz", tmp_path / "tree.nii.gz")
    write("-d", 8, "-name", "Both", "--join", 7)
    for folder in ("Dataset007_Cts", "Dataset008_Both"):
        assert not any((tmp_path / folder / "labelsTr").iterdir())
        assert len(list((tmp_path / folder / "imagesTs").iterdir())) == 1
