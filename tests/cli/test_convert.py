import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunetv2_airway.cli import convert


@pytest.fixture
def run(convert_here, tmp_path):
    """The function that runs ``nnUNetv2_airway_convert folder``."""

    def run(*line: object, code: int = 0) -> str:
        ended, output = convert_here("folder", *line, workspace=tmp_path)
        assert ended == code, output
        return output

    return run


def test_every_format_of_ct_with_every_format_of_label(run, tmp_path, scans, write, write_dicom):
    cts, labels = tmp_path / "cts", tmp_path / "labels"
    for index, ending in enumerate((".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")):
        write(cts / f"case{index}{'_0000' if index < 2 else ''}{ending}", scans[index % 3][0])
        write(labels / f"case{index}.{'mhd' if index % 2 else 'nii.gz'}", scans[index % 3][1])
    write_dicom(cts / "case5" / "study" / "series", scans[2][0])
    write(labels / "case5_0000.nrrd", scans[2][1])
    (cts / "readme.txt").touch()
    (cts / "notes").mkdir()
    output = run("-i", cts, "-l", labels, "-d", 510)
    assert f"Passed over in {cts}, neither images nor DICOM of a case: notes, readme.txt\n" in output
    folder = tmp_path / "nnUNet_raw" / "Dataset510_Airways"
    verify_dataset_integrity(str(folder), num_processes=1)
    for index in range(6):
        label = sitk.ReadImage(str(folder / "labelsTr" / f"case{index}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(label), scans[index % 3 if index < 5 else 2][1])


def test_one_folder_with_images_and_labels_in_two(run, tmp_path, scans, write):
    write(tmp_path / "set" / "imgs" / "a.nii.gz", scans[0][0])
    write(tmp_path / "set" / "masks" / "a.nii.gz", scans[0][1])
    assert "1 training and 0 test cases are in" in run("-i", tmp_path / "set", "-d", 510, "-name", "Mine")
    assert (tmp_path / "nnUNet_raw" / "Dataset510_Mine" / "dataset.json").is_file()
    write(tmp_path / "set" / "more" / "images" / "b.nii.gz", scans[0][0])
    output = run("-i", tmp_path / "set", "-d", 510, "-name", "Mine", code=1)
    assert f"{tmp_path}/set/imgs with {tmp_path}/set/masks; {tmp_path}/set/more/images with none beside it" in output
    shutil.rmtree(tmp_path / "set" / "masks")
    shutil.rmtree(tmp_path / "set" / "more")
    assert "Give -i CTS -l LABELS" in run("-i", tmp_path / "set", "-d", 510, code=1)


def test_labels_with_a_suffix_and_lumen(run, tmp_path, scans, write):
    hu, mask = scans[0]
    walls = 2 * mask
    walls[:20] //= 2
    write(tmp_path / "cts" / "a.nii.gz", hu)
    write(tmp_path / "labels" / "a_airway.nii.gz", walls)
    write(tmp_path / "labels" / "a_lobes.nii.gz", mask)
    line = ("-i", tmp_path / "cts", "-l", tmp_path / "labels", "-d", 510)
    assert "no CT has the name of a label" in run(*line, code=1)
    run(*line, "--label-suffix", "_airway", "--lumen", 1)
    other = tmp_path / "labels" / ".." / "cts"  # the same folder by another name
    run("-i", other, *line[2:], "--label-suffix", "_airway", "--lumen", 1)
    label = sitk.ReadImage(str(tmp_path / "nnUNet_raw" / "Dataset510_Airways" / "labelsTr" / "a.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(label), walls == 1)


def test_labels_beside_their_cts(run, tmp_path, scans, write, write_dicom):
    cts = tmp_path / "cts"
    for name, (hu, mask) in zip("ab", scans, strict=False):
        write(cts / f"{name}.nii.gz", hu)
        write(cts / f"{name}_airway.nii.gz", mask)
    (cts / "notes.txt").touch()
    assert "say with --label-suffix" in run("-i", cts, "-l", cts, "-d", 510, code=1)
    output = run("-i", cts, "-l", cts, "-d", 510, "--label-suffix", "_airway")
    assert "2 training and 0 test cases are in" in output
    assert output.count(f"Passed over in {cts}, neither images nor DICOM of a case: notes.txt\n") == 1
    write_dicom(cts / "c", scans[2][0])
    write(cts / "c_airway.nii.gz", scans[2][1])
    assert "3 training and 0 test cases" in run("-i", cts, "-l", cts, "-d", 510, "--label-suffix", "_airway")
    output = run("-i", cts, "--images-only", "--label-suffix", "_airway", "-o", tmp_path / "out")
    assert "3 CTs for nnUNetv2_predict are in" in output
    assert "of a case: a_airway.nii.gz, b_airway.nii.gz, notes.txt\n" not in output, "masks are known by their suffix"


def test_dicom_among_the_labels_that_is_no_label_is_passed_over(run, tmp_path, scans, write, write_dicom):
    write_dicom(tmp_path / "cts" / "a", scans[0][0])
    write(tmp_path / "a.nii.gz", scans[0][1])
    write_dicom(tmp_path / "a", scans[0][0])
    output = run("-i", tmp_path / "cts", "-l", tmp_path, "-d", 510)
    assert f"Passed over in {tmp_path}, neither images nor DICOM of a case: a, cts\n" in output


@pytest.mark.parametrize(
    ("modality", "tool"), [("CT", "dcm2niix"), ("SEG", "segimage2itkimage"), ("RTSTRUCT", "plastimatch")]
)
def test_labels_as_dicom_are_named_with_what_to_do(run, tmp_path, scans, write, write_dicom, modality, tool):
    cts, labels = tmp_path / "cts", tmp_path / "labels"
    for name, (hu, _) in zip("abc", scans, strict=True):
        write(cts / f"{name}.nii.gz", hu)
    write(labels / "a.nii.gz", scans[0][1])
    write_dicom(labels / "b", scans[1][1], Modality=modality)
    write_dicom(labels, scans[2][1][:1], names=["c.dcm"], Modality=modality)
    output = run("-i", cts, "-l", labels, "-d", 510, code=1)
    for name in ("b", "c.dcm"):
        assert f"{labels / name} is DICOM with the Modality {modality}, labels are read as NIfTI" in output
    assert tool in output and "2 of 3 cases could not be converted" in output


def test_cts_for_prediction(run, tmp_path, scans, write, write_dicom):
    write(tmp_path / "cts" / "a.nii.gz", scans[0][0])
    write_dicom(tmp_path / "cts" / "b", scans[1][0])
    run("-i", tmp_path / "cts", "--images-only", "-o", tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").glob("*.nii.gz")) == ["a_0000.nii.gz", "b_0000.nii.gz"]
    run("-i", tmp_path / "cts" / "b", "--images-only", "-o", tmp_path / "one")  # the series' own folder
    assert [file.name for file in (tmp_path / "one").glob("*.nii.gz")] == ["b_0000.nii.gz"]
    assert "--images-only needs -o FOLDER" in run("-i", tmp_path / "cts", "--images-only", code=1)


def test_a_scale_for_some_cases_and_a_series_for_another(run, tmp_path, scans, write, write_dicom):
    hu, mask = scans[0]
    write(tmp_path / "cts" / "a.nii.gz", hu)
    write(tmp_path / "cts" / "b.nii.gz", hu + 1024)
    write_dicom(tmp_path / "cts" / "c" / "soft", hu)
    sharp = write_dicom(tmp_path / "cts" / "c" / "sharp", hu)
    for name in "abc":
        write(tmp_path / "labels" / f"{name}.nii.gz", mask)
    line = ("-i", tmp_path / "cts", "-l", tmp_path / "labels", "-d", 510)
    output = run(*line, code=1)
    assert "b: FAILED" in output and "--scale 1 -1024" in output and f"{sharp} (Thorax 1.0 B50f, 40 slices)" in output
    output = run(*line, "--scale", 1, -1024, code=1)  # for all, of which two do not need it
    assert "a: FAILED" in output and "as stored they look like Hounsfield units" in output
    output = run(*line, "--scale", 1, -1024, "b", "--series", sharp)
    assert "b: HU = 1 * stored + -1024, as stated" in output
    assert "3 training and 0 test cases" in output
    folder = tmp_path / "nnUNet_raw" / "Dataset510_Airways" / "imagesTr"
    arrays = [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}_0000.nii.gz"))) for name in "abc"]
    assert np.array_equal(arrays[0], arrays[1]) and np.array_equal(arrays[0], arrays[2])


def test_a_scale_for_all_and_two_files_of_one_name(run, tmp_path, scans, write, write_dicom):
    for name in "ab":
        write(tmp_path / "cts" / f"{name}.nii.gz", scans[0][0] + 1024)
    write_dicom(tmp_path / "cts" / "b", scans[0][0])
    line = ("-i", tmp_path / "cts", "--images-only", "-o", tmp_path / "out", "--scale", 1, -1024)
    output = run(*line, code=1)
    assert "b: FAILED: there are several files of this name" in output
    image = sitk.ReadImage(str(tmp_path / "out" / "a_0000.nii.gz"))
    assert sitk.GetArrayFromImage(image).min() == -1024


def test_what_is_the_same_for_many_cases_stands_on_one_line(run, tmp_path, scans, write):
    for index in range(5):
        padded = scans[index % 3][0].copy()
        padded[:, :2] = -2048
        write(tmp_path / "cts" / f"case{index}.nii.gz", padded)
    output = run("-i", tmp_path / "cts", "--images-only", "-o", tmp_path / "out")
    assert "case0, case1, case2, ... (5): values down to -2048 HU (padding) raised to -1024\n" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--accept", "nobody"], "--accept names nobody, which is no case of"),
        (["--scale", "1", "-1024", "nobody"], "--scale names nobody, which is no case of"),
        (["--scale", "1"], "--scale needs SLOPE INTERCEPT"),
        (["--scale", "a", "0"], "--scale needs SLOPE INTERCEPT"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path, scans, write, options, words):
    write(tmp_path / "cts" / "a.nii.gz", scans[0][0])
    write(tmp_path / "labels" / "a.nii.gz", scans[0][1])
    line = ["folder", "-i", str(tmp_path / "cts"), "-l", str(tmp_path / "labels"), "-d", "510", "-o", str(tmp_path)]
    with pytest.raises(SystemExit, match=words):
        convert.main([*line, *options])


def test_it_says_what_it_needs(monkeypatch, tmp_path, scans, write, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    write(tmp_path / "cts" / "a.nii.gz", scans[0][0])
    write(tmp_path / "labels" / "a.nii.gz", scans[0][1])
    line = ["folder", "-i", str(tmp_path / "cts"), "-l", str(tmp_path / "labels")]
    with pytest.raises(SystemExit, match="a data set id is needed: -d 510"):
        convert.main(line)
    with pytest.raises(SystemExit, match="give -o FOLDER, or set the variable nnUNet_raw"):
        convert.main([*line, "-d", "510"])
    for wrong in (["--lung-box", "-1"], ["--lung-box", "nan"], ["-d", "0"], ["--lung-box", "3", "--no-lung-box"]):
        with pytest.raises(SystemExit) as end:
            convert.main([*line, *wrong])
        assert end.value.code == 2
    assert "at least 0 mm" in capsys.readouterr().err
