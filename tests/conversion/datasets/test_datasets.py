"""Small folders in exactly the data sets' layouts, converted by the command and read back by nnU-Net."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

ROOT = Path(__file__).parents[3]


def report(folder: Path) -> dict[str, dict]:
    with (folder / "conversion_report.csv").open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def array(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.fixture
def convert(convert_here, tmp_path):
    """The function that runs the command on folders below the test's and returns its output and the data set."""

    def run(*line: object, code: int = 0) -> tuple[str, Path | None]:
        (tmp_path / "nnUNet_raw").mkdir(exist_ok=True)
        ended, output = convert_here(*line, "-np", 2, workspace=tmp_path)
        assert ended == code, output
        found = sorted((tmp_path / "nnUNet_raw").iterdir())
        if found and (found[0] / "dataset.json").is_file():
            verify_dataset_integrity(str(found[0]), num_processes=1)
        return output, found[0] if found else None

    return run


def check_dataset_json(folder: Path, training: int, reference: str) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "noNorm"} and content["labels"] == {"background": 0, "airway": 1}
    assert content["numTraining"] == training and content["file_ending"] == ".nii.gz"
    assert reference in content["reference"] and content["licence"]


def test_atm22(convert, tmp_path, scans, write):
    source = tmp_path / "ATM22"
    (hu, mask), (other_hu, other_mask), _ = scans
    scaled = (16 * (hu.astype(int) + 1024)).astype(np.uint16)
    scaled[0, 0, 0] = 65535
    padded = hu.copy()
    padded[:, -3:] = -3024
    for batch, suffix, case, ct, label in (
        ("TrainBatch1", "_0000", "ATM_001", hu, mask),
        ("TrainBatch1", "", "ATM_002", other_hu, other_mask),
        ("TrainBatch2_New", "_0000", "ATM_164", hu, other_mask),
        ("TrainBatch2_New", "_0000", "ATM_242", scaled, mask),
        ("TrainBatch2_New", "_0000", "ATM_250", padded, mask),
        ("TrainBatch2_New", "_0000", "ATM_260", other_hu, other_mask[:, ::-1]),
    ):
        write(source / batch / "imagesTr" / f"{case}{suffix}.nii.gz", ct)
        write(source / batch / "labelsTr" / f"{case}{suffix}.nii.gz", label)
    write(source / "imagesVal" / "ATM_281_0000.nii.gz", other_hu)
    write(source / "TrainBatch1" / "imagesTr" / "ATM_003_0000.nii.gz", hu)
    output, folder = convert("ATM22", "-i", source, code=1)
    assert folder.name == "Dataset501_ATM22"
    check_dataset_json(folder, 4, "102957")
    assert {file.name for file in (folder / "imagesTr").iterdir()} == {
        f"ATM_{number}_0000.nii.gz" for number in ("001", "002", "242", "250")
    }
    assert [file.name for file in (folder / "imagesTs").iterdir()] == ["ATM_281_0000.nii.gz"]
    rows = report(folder)
    status = {case: row["status"] for case, row in rows.items()}
    assert status == {
        "ATM_001": "training", "ATM_002": "training", "ATM_003": "failed", "ATM_164": "left out", "ATM_242": "training",
        "ATM_250": "training", "ATM_260": "failed", "ATM_281": "test",
    }  # fmt: skip
    assert "ATM_242: read as 0.0625 * stored + -1024" in output
    assert "ATM_250: values down to -3024 HU (padding) raised to -1024" in output
    assert "ATM_164: left out: excluded by the challenge: its label does not match its CT" in output
    assert "ATM_003: FAILED: there is no label of this name" in output
    assert "ATM_260: FAILED" in output and "mirrored along the row axis" in output
    assert "2 of 7 cases could not be converted" in output and "EXACT'09" in output

    box = tuple(slice(*map(int, span.split(":"))) for span in rows["ATM_242"]["box_zyx"].split())
    assert np.array_equal(array(folder / "imagesTr" / "ATM_242_0000.nii.gz")[box].clip(None, 3000), hu[box])
    padding = array(folder / "imagesTr" / "ATM_250_0000.nii.gz")
    assert padding.min() == -1024
    assert np.array_equal(array(folder / "labelsTr" / "ATM_002.nii.gz"), other_mask)


def test_atm22_from_the_two_folders_alone(convert, tmp_path, scans, write):
    write(tmp_path / "batch" / "imagesTr" / "ATM_001_0000.nii.gz", scans[0][0])
    write(tmp_path / "batch" / "labelsTr" / "ATM_001_0000.nii.gz", scans[0][1])
    _, folder = convert("ATM22", "-i", tmp_path / "batch", "-d", 777)
    assert folder.name == "Dataset777_ATM22" and list(report(folder)) == ["ATM_001"]


def test_atm26_as_nifti_and_metaimage_with_thin_and_thick_slices(convert, tmp_path, scans, write, grid):
    source = tmp_path / "ATM26"
    (hu, mask), (other_hu, other_mask), _ = scans
    thick = replace(grid, spacing=(1.2, 1.0, 5.0))
    scaled = (16 * (hu.astype(int) + 1024)).astype(np.uint16)
    scaled[0, 0, 0] = 65535
    write(source / "imagesTr" / "ATM_001_0000.nii.gz", hu)
    write(source / "labelsTr" / "ATM_001.nii.gz", mask)
    write(source / "imagesTr" / "ATM_002_0000.mha", other_hu[::2], thick)
    write(source / "labelsTr" / "ATM_002_0000.mha", other_mask[::2], thick)
    write(source / "batch2" / "images" / "ATM_164_0000.nii.gz", hu)
    write(source / "batch2" / "labels" / "ATM_164_0000.nii.gz", mask)
    write(source / "batch2" / "images" / "ATM_242_0000.nii.gz", scaled)
    write(source / "batch2" / "labels" / "ATM_242_0000.nii.gz", mask)
    write(source / "input" / "images" / "lung-ct" / "ATM_900_0000.mha", other_hu)
    output, folder = convert("ATM26", "-i", source)
    assert folder.name == "Dataset506_ATM26"
    check_dataset_json(folder, 3, "atm26.grand-challenge.org")
    assert [file.name for file in (folder / "imagesTs").iterdir()] == ["ATM_900_0000.nii.gz"]
    status = {case: row["status"] for case, row in report(folder).items()}
    training = dict.fromkeys(("ATM_001", "ATM_002", "ATM_242"), "training")
    assert status == {**training, "ATM_164": "left out", "ATM_900": "test"}
    assert "ATM_242: read as 0.0625 * stored + -1024" in output and "EXACT'09" in output
    converted = sitk.ReadImage(str(folder / "labelsTr" / "ATM_002.nii.gz"))
    assert converted.GetSpacing() == pytest.approx(thick.spacing)
    assert np.array_equal(sitk.GetArrayFromImage(converted), other_mask[::2])


def test_bas_with_cts_of_lidc_and_exact09(convert, tmp_path, scans, write, write_dicom):
    bas, lidc, exact = (tmp_path / name for name in ("BAS", "LIDC-IDRI", "EXACT09"))
    uids = [f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{number}" for number in (1087, 2052, 3003)]
    for index, (uid, (hu, mask)) in enumerate(zip(uids, scans, strict=True)):
        patient = lidc / f"LIDC-IDRI-000{1 + index // 2}" / f"1.3.6.{index}"
        # the folder of the second is not called by its UID
        write_dicom(patient / (uid if index != 1 else "3000522.000000-NA-04919"), hu, uid=uid)
        write(bas / "LIDC" / f"{uid}.nii.gz", mask)
        write_dicom(patient / "radiograph", hu[:2], Modality="DX")
    write_dicom(exact / "Training" / "CASE01", scans[0][0], names=[str(900 - 7 * index) for index in range(40)])
    write_dicom(exact / "Training" / "CASE02", scans[1][0])
    write(bas / "EXACT" / "CASE01.nii.gz", scans[0][1])
    write(bas / "EXACT" / "CASE02.mhd", scans[1][1])
    write(bas / "EXACT" / "CASE09.nii.gz", scans[2][1])
    write(bas / "repackaged" / "Airway_0292_0000.nii.gz", scans[2][0])
    write(bas / "repackaged" / "Airway_0292.nii.gz", scans[2][1])
    write(bas / "repackaged" / "Airway_0292_clean_hu.nii.gz", scans[2][1])
    for part in ("one", "two"):
        write(bas / part / "images" / "more" / "CASE07.nii.gz", scans[0][0])
    write(bas / "images" / "labels" / "CASE07.nii.gz", scans[0][1])  # the nearest folder tells
    output, folder = convert("BAS", "-i", bas, lidc, exact, code=1)
    assert folder.name == "Dataset502_BAS"
    check_dataset_json(folder, 6, "1603")
    names = {*uids, "CASE01", "CASE02", "Airway_0292"}
    assert {file.name for file in (folder / "imagesTr").iterdir()} == {f"{name}_0000.nii.gz" for name in names}
    assert "CASE07: FAILED: there are several files of this name" in output
    assert "CASE09: FAILED: there is no CT of this name for" in output and "LIDC-IDRI or EXACT'09" in output
    rows = report(folder)
    assert [rows[uid]["subject"] for uid in uids] == ["LIDC-IDRI-0001", "LIDC-IDRI-0001", "LIDC-IDRI-0002"]
    for name, index in ((uids[0], 0), (uids[1], 1), ("CASE01", 0), ("CASE02", 1), ("Airway_0292", 2)):
        hu, mask = scans[index]
        assert np.array_equal(array(folder / "labelsTr" / f"{name}.nii.gz"), mask)
        box = tuple(slice(*map(int, span.split(":"))) for span in rows[name]["box_zyx"].split())
        assert np.array_equal(array(folder / "imagesTr" / f"{name}_0000.nii.gz")[box], hu[box])
    for fold in json.loads((folder / "splits_final.json").read_text()):
        for pair in ({uids[0], uids[1]}, {"CASE01", "CASE02"}):
            assert pair <= set(fold["train"]) or pair <= set(fold["val"])


@pytest.mark.slow
def test_exact09_with_labels_of_bas(convert, tmp_path, scans, write, write_dicom):
    rng = np.random.default_rng(0)
    for number in range(1, 11):
        hu, mask = scans[number % 3]
        names = [str(name) for name in rng.permutation(40) + 1093782]
        write_dicom(tmp_path / "EXACT09" / "Training" / f"CASE{number:02d}", hu, names=names)
        if number != 5:
            name = f"Airway_CASE{number:02d}.nii.gz" if number == 3 else f"CASE{number:02d}.mhd"
            write(tmp_path / "BAS" / name, mask)
    write_dicom(tmp_path / "EXACT09" / "Testing" / "CASE21", scans[2][0])
    write(tmp_path / "BAS" / "CASE11.nii.gz", scans[0][1])
    write_dicom(tmp_path / "EXACT09" / "Training" / "CASE12", scans[0][0])
    for name in ("lungs", "airways"):
        write(tmp_path / "BAS" / name / "CASE12.nii.gz", scans[0][1])
    write_dicom(tmp_path / "EXACT09" / "Training" / "CASE20", scans[0][0])
    output, folder = convert("EXACT09", "-i", tmp_path / "EXACT09", tmp_path / "BAS", code=1)
    assert folder.name == "Dataset503_EXACT09"
    check_dataset_json(folder, 9, "2093")
    for case in ("CASE05", "CASE20"):
        assert f"{case}: FAILED: there is no label of this name" in output
    assert "CASE11: FAILED: there is no CT of this name" in output
    assert "CASE12: FAILED: there are several files of this name" in output
    rows = report(folder)
    assert rows["CASE21"]["status"] == "test" and rows["CASE03"]["status"] == "training"
    for number in (1, 2, 10):
        box = tuple(slice(*map(int, span.split(":"))) for span in rows[f"CASE{number:02d}"]["box_zyx"].split())
        image = array(folder / "imagesTr" / f"CASE{number:02d}_0000.nii.gz")
        assert np.array_equal(image[box], scans[number % 3][0][box])
    held = {tuple(sorted(fold["val"])) for fold in json.loads((folder / "splits_final.json").read_text())}
    assert held == {("CASE01", "CASE02", "CASE03", "CASE04"), ("CASE06", "CASE07", "CASE08"), ("CASE09", "CASE10")}


def test_exact09_alone_says_where_labels_come_from(convert, tmp_path, scans, write_dicom):
    write_dicom(tmp_path / "EXACT09" / "Training" / "CASE01", scans[0][0])
    output, folder = convert("EXACT09", "-i", tmp_path / "EXACT09", code=1)
    assert folder is None and "come from BAS: -i EXACT09 BAS" in output and "--images-only -o FOLDER" in output
    convert("EXACT09", "-i", tmp_path / "EXACT09", "--images-only", "-o", tmp_path / "predict")
    assert (tmp_path / "predict" / "CASE01_0000.nii.gz").is_file()


@pytest.mark.parametrize("names", [("img", "gt"), ("image", "label")])
def test_aiib23(convert, tmp_path, scans, write, names):
    for number, (hu, mask) in zip((3, 12, 120), scans, strict=True):
        for name, values in zip(names, (hu, 2 * mask), strict=True):
            write(tmp_path / "AIIB23" / "AIIB23_Train_T1" / name / f"AIIB23_{number}.nii.gz", values)
    _, folder = convert("AIIB23", "-i", tmp_path / "AIIB23")
    assert folder.name == "Dataset504_AIIB23"
    check_dataset_json(folder, 3, "10.1016/j.media.2024.103253")
    assert np.array_equal(array(folder / "labelsTr" / "AIIB23_120.nii.gz"), scans[2][1])
    assert list(report(folder)) == ["AIIB23_12", "AIIB23_120", "AIIB23_3"]


@pytest.mark.parametrize("above", ["", "data"])
def test_aeropath(convert, tmp_path, scans, write, above):
    lungs = np.zeros_like(scans[0][1])
    lungs[6:30, 20:45, 15:48] = 1
    for number, (hu, mask) in zip((1, 2, 27), scans, strict=True):
        folder = tmp_path / "AeroPath" / above / str(number)
        write(folder / f"{number}_CT_HR.nii.gz", hu)
        write(folder / f"{number}_CT_HR_label_airways.nii.gz", mask)
        if number != 2:
            write(folder / f"{number}_CT_HR_label_lungs.nii.gz", lungs)
    _, folder = convert("AeroPath", "-i", tmp_path / "AeroPath", "--lung-box", 0)
    assert folder.name == "Dataset505_AeroPath"
    check_dataset_json(folder, 3, "2311.01138")
    rows = report(folder)
    assert {case: row["lungs"] for case, row in rows.items()} == {"1": "label", "2": "found", "27": "label"}
    held = [np.flatnonzero(scans[0][1].any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    expected = [
        f"{min(low, found[0])}:{max(high, found[-1] + 1)}"
        for (low, high), found in zip(((6, 30), (20, 45), (15, 48)), held, strict=True)
    ]
    assert rows["1"]["box_zyx"] == " ".join(expected)


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "dataset_conversion").glob("Dataset*.py")))
def test_each_data_set_has_a_script_that_explains_itself(script, command, tmp_path):
    file = ROOT / "dataset_conversion" / script
    result = subprocess.run([sys.executable, file, "-h"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert f"(default: {script[7:10]})" in result.stdout and "--images-only" in result.stdout
    name = script.removesuffix(".py")[11:]
    assert f"\n    {name} " in command("nnUNetv2_airway_convert", "-h", workspace=tmp_path).stdout


@pytest.mark.slow
def test_a_script_converts(tmp_path, scans, write, variables):
    write(tmp_path / "AIIB23" / "img" / "AIIB23_1.nii.gz", scans[0][0])
    write(tmp_path / "AIIB23" / "gt" / "AIIB23_1.nii.gz", scans[0][1])
    script = ROOT / "dataset_conversion" / "Dataset504_AIIB23.py"
    line = [sys.executable, script, "-i", tmp_path / "AIIB23", "-d", "604"]
    result = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, env=variables(tmp_path))
    assert result.returncode == 0, result.stderr
    verify_dataset_integrity(str(tmp_path / "nnUNet_raw" / "Dataset604_AIIB23"), num_processes=1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ATM22", "TrainBatch1"),
        ("BAS", "BAS"),
        ("EXACT09", "CASE01"),
        ("AIIB23", "img and gt"),
        ("AeroPath", "1_CT_HR"),
        ("ATM26", "imagesTr and labelsTr"),
    ],
)
def test_another_folder_is_told_what_was_expected(convert, tmp_path, name, expected):
    (tmp_path / "empty").mkdir()
    output, _ = convert(name, "-i", tmp_path / "empty", code=1)
    assert "no cases found in" in output and expected in output
    assert "there is no folder" in convert(name, "-i", tmp_path / "missing", code=1)[0]
