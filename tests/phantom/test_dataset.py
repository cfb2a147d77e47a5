import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunetv2_airway.phantom.dataset import write_dataset
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize

pytestmark = pytest.mark.usefixtures("in_this_process")
OPTIONS = PhantomOptions(shape=(40, 56, 48), spacing=(2.0, 1.0, 1.2), seed=7)
FILES = {
    "imagesTr/phantom_000_0000.nii.gz",
    "imagesTr/phantom_001_0000.nii.gz",
    "labelsTr/phantom_000.nii.gz",
    "labelsTr/phantom_001.nii.gz",
    "imagesTs/phantom_002_0000.nii.gz",
    "labelsTs/phantom_002.nii.gz",
    "dataset.json",
    "phantom_options.json",
}


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset599_AirwayPhantom"
    write_dataset(folder, OPTIONS, training=2, test=1)
    return folder


def test_a_complete_raw_data_set_by_nnunets_own_check(folder):
    assert set(contents(folder)) == FILES
    verify_dataset_integrity(str(folder), 1)
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "noNorm"} and dataset["numTraining"] == 2


def test_files_hold_the_phantom_in_its_geometry(folder):
    for name, array in zip(
        ("imagesTs/phantom_002_0000.nii.gz", "labelsTs/phantom_002.nii.gz"), synthesize(OPTIONS, 2), strict=True
    ):
        image = sitk.ReadImage(str(folder / name))
        assert image.GetSpacing() == pytest.approx((1.2, 1.0, 2.0))
        assert np.array_equal(sitk.GetArrayFromImage(image), array)


def test_the_same_seed_gives_the_same_files_and_an_interrupted_run_goes_on(folder, tmp_path):
    target = tmp_path / "Dataset598_Again"
    write_dataset(target, OPTIONS, training=2, test=1)
    name = b"Dataset598_Again", b"Dataset599_AirwayPhantom"
    files = {file: content.replace(*name) for file, content in contents(target).items()}
    assert files == contents(folder)
    kept = target / "imagesTr" / "phantom_000_0000.nii.gz"
    before = kept.stat().st_mtime_ns
    (target / "labelsTr" / "phantom_001.nii.gz").unlink()
    write_dataset(target, OPTIONS, training=2, test=1)
    assert set(contents(target)) == FILES and kept.stat().st_mtime_ns == before


def test_other_options_never_mix_with_what_is_there(folder):
    with pytest.raises(ValueError, match=r"seed: 7 there, 8 now.*--overwrite"):
        write_dataset(folder, replace(OPTIONS, seed=8), training=2, test=1)
    with pytest.raises(ValueError, match="test: 1 there, 0 now"):
        write_dataset(folder, OPTIONS, training=2, test=0)
    with pytest.raises(ValueError, match=r"already has Dataset599_AirwayPhantom.*another -d"):
        write_dataset(folder.parent / "Dataset599_Other", OPTIONS, training=1, test=0)


def test_overwriting_leaves_nothing_of_the_former_phantoms(folder, tmp_path):
    target = tmp_path / "Dataset598_Again"
    write_dataset(target, replace(OPTIONS, seed=8), training=3, test=0)
    write_dataset(target, OPTIONS, training=2, test=1, overwrite=True)
    assert {name: c for name, c in contents(target).items() if name != "dataset.json"} == {
        name: c for name, c in contents(folder).items() if name != "dataset.json"
    }


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="not made by this command"):
        write_dataset(tmp_path, OPTIONS, training=1, test=0)


def test_from_a_mask_in_any_orientation(folder, tmp_path):
    upright = sitk.ReadImage(str(folder / "labelsTr" / "phantom_000.nii.gz"))
    upright.SetOrigin((-30, 12, 700))
    turned = sitk.DICOMOrient(upright, "ASR")
    cts = []
    for name, mask in (("upright", upright), ("turned", turned)):
        file = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(mask, str(file))
        write_dataset(
            tmp_path / f"Dataset59{len(cts)}_{name}", PhantomOptions(seed=1), training=1, test=0, from_masks=[file]
        )
        ct = sitk.ReadImage(str(tmp_path / f"Dataset59{len(cts)}_{name}" / "imagesTr" / "phantom_000_0000.nii.gz"))
        label = sitk.ReadImage(str(tmp_path / f"Dataset59{len(cts)}_{name}" / "labelsTr" / "phantom_000.nii.gz"))
        for read in (sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
            assert read(ct) == pytest.approx(read(mask)) and read(label) == pytest.approx(read(mask))
        assert np.array_equal(sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(mask))
        cts.append(sitk.GetArrayFromImage(sitk.DICOMOrient(ct, "LPS")))
    assert np.array_equal(*cts)  # the same patient, however the file stores it


@pytest.mark.parametrize("content", ["nothing", "empty", "ct"])
def test_unusable_masks_are_named(tmp_path, content):
    file = tmp_path / "mask.nii.gz"
    if content == "empty":
        sitk.WriteImage(sitk.Image(40, 40, 40, sitk.sitkUInt8), str(file))
    elif content == "ct":
        sitk.WriteImage(sitk.Image(40, 40, 40, sitk.sitkInt16) - 800, str(file))
    else:
        file.write_text("no image")
    with pytest.raises(ValueError, match=str(file)):
        write_dataset(tmp_path / "out", PhantomOptions(), training=1, test=0, from_masks=[file])
    assert not (tmp_path / "out").exists()
