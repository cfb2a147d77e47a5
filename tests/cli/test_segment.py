"""``nnUNetv2_airway_segment``: files in, trees, tables and a page out; resumed, shared out, and what fails."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_airway import __version__
from nnunetv2_airway.cli import segment as command
from nnunetv2_airway.inference import folder as folder_module
from nnunetv2_airway.inference.models import BUILT_IN
from nnunetv2_airway.inference.predictor import AirwayPredictor
from nnunetv2_airway.io.images import Grid
from nnunetv2_airway.measurement import case as case_module
from nnunetv2_airway.measurement import folder as measurement_folder
from nnunetv2_airway.report.page import measured
from nnunetv2_airway.report.page.measured import make_measured_page

pytestmark = pytest.mark.usefixtures("in_this_process")
RECORD = {
    "summary": {
        "volume_ml": 1.0, "total_length_mm": 1.0, "branches": 1, "ends": 1, "deepest_generation": 1, "pieces": 1,
        "outside_largest_piece_percent": 0.0, "doubts": [],
    },
    "lumen_hu": None,
}  # fmt: skip
GRID = Grid((2.1, 2.3, 3.0), (-195.0, -130.0, -1200.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Draw no pictures of branches, which takes most of the time of a small tree."""
    monkeypatch.setattr(case_module, "draw_generations", lambda file, *args, **options: file.touch())


@pytest.fixture
def without_page(monkeypatch):
    """Measure no branches and write an empty page, for what is not about them."""
    monkeypatch.setattr(measured, "make_measured_page", lambda *args, **options: "")

    def measure(files, *args, **options):
        return measurement_folder.Measurement(dict.fromkeys(files, RECORD), {}, [])

    monkeypatch.setattr(measurement_folder, "measure_masks", measure)


@pytest.fixture
def predicted(monkeypatch, finds_trachea) -> list:
    """The shapes of the parts that were predicted."""
    shapes = []
    real = AirwayPredictor.segment_ct
    monkeypatch.setattr(
        AirwayPredictor, "segment_ct", lambda self, hu, *args: shapes.append(hu.shape) or real(self, hu, *args)
    )
    return shapes


@pytest.fixture
def cts(tmp_path, ct, write):
    """A folder with a CT, one stored in another orientation, one that is none of the chest, and one not in HU."""
    folder = tmp_path / "cts"
    write(folder / "chest_0000.nii.gz", ct, GRID)
    sitk.WriteImage(sitk.DICOMOrient(GRID.image(ct), "RAS"), str(folder / "mirrored.mha"))
    write(folder / "belly.nii.gz", ct[:38], GRID)
    write(folder / "shifted.nii.gz", (ct + 1024).astype(np.int16), GRID)
    return folder


@pytest.fixture
def run(run_main, model):
    """The function that runs the command: (exit code, what it says)."""
    return lambda *line, model=model: run_main(command.main, *line, "-m", model, "-device", "cpu")


def rows(file) -> dict[str, dict]:
    with file.open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def test_from_a_folder_to_trees_tables_and_a_page(cts, predicted, run, tmp_path):
    out = tmp_path / "out"
    code, said = run("-i", cts, "-o", out)
    assert code == 1 and "2 of 4 cases failed, see above; the others are complete" in said
    assert "belly: FAILED: what is seen of the lungs is" in said and "a CT of the whole chest is needed" in said
    assert "shifted: FAILED" in said and "Hounsfield" in said
    trees = {name: sitk.ReadImage(str(out / f"{name}.nii.gz")) for name in ("chest", "mirrored")}
    assert {file.name for file in out.glob("*.nii.gz")} == {"chest.nii.gz", "mirrored.nii.gz"}
    for name, source in (("chest", "chest_0000.nii.gz"), ("mirrored", "mirrored.mha")):
        own, original = Grid.of(trees[name]), Grid.of(sitk.ReadImage(str(cts / source)))
        for part in ("spacing", "origin", "direction"):
            np.testing.assert_allclose(getattr(own, part), getattr(original, part), atol=1e-4)
    upright = sitk.GetArrayFromImage(sitk.DICOMOrient(trees["mirrored"], "LPS"))
    np.testing.assert_array_equal(upright, sitk.GetArrayFromImage(trees["chest"]))
    table = rows(out / "trees.csv")
    assert set(table) == {"chest", "mirrored"} and table["chest"]["volume_ml"] == table["mirrored"]["volume_ml"]
    assert 25 < float(table["chest"]["volume_ml"]) < 50 and float(table["chest"]["lumen_hu"]) < -950
    page = (out / "report.html").read_text()
    assert "chest" in page and "mirrored" in page and "Segmented with the model imported." in page
    assert "belly failed: what is seen of the lungs is" in page


@pytest.mark.usefixtures("predicted")
def test_without_m_it_is_the_package_s_model_that_says_so(cts, run_main, tmp_path):
    out = tmp_path / "out"
    line = ("-i", cts / "chest_0000.nii.gz", "-o", out, "-device", "cpu")
    code, said = run_main(command.main, *line)
    assert code == 0 and f"Model: that of nnunetv2_airway {__version__}, not for diagnosis" in said
    assert (BUILT_IN / "MODEL_CARD.md").is_file() and str(BUILT_IN / "MODEL_CARD.md") in said
    assert f"Segmented with the model of nnunetv2_airway {__version__}." in (out / "report.html").read_text()


@pytest.mark.slow
def test_the_package_s_model_finds_the_trachea_of_a_drawn_chest(cts, run_main, tmp_path, ct):
    code, said = run_main(
        command.main, "-i", cts / "chest_0000.nii.gz", "-o", tmp_path / "out", "-device", "cpu", "-step_size", 1
    )
    assert code == 0, said
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "chest.nii.gz"))) > 0
    gas = (ct < -930) & (np.abs(np.arange(ct.shape[2]) - 93) < 35)
    assert 25 < found.sum() * np.prod(GRID.spacing) / 1000 < 50 and (found & gas).sum() > 0.7 * found.sum()


@pytest.mark.slow
def test_goes_on_where_it_stopped(cts, predicted, run, tmp_path, ct, write, model):
    out = tmp_path / "out"
    for name in ("belly.nii.gz", "shifted.nii.gz"):
        (cts / name).unlink()
    assert run("-i", cts, "-o", out)[0] == 0 and len(predicted) == 2
    code, said = run("-i", cts, "-o", out)
    assert code == 0 and len(predicted) == 2 and "2 of 2 cases had been segmented before" in said
    (out / "mirrored.nii.gz").unlink()
    assert run("-i", cts, "-o", out, "-step_size", 1)[0] == 0 and len(predicted) == 4  # of other settings
    changed = ct.copy()
    changed[50, 50, 50] += 1
    write(cts / "chest_0000.nii.gz", changed, GRID)
    assert run("-i", cts, "-o", out, "-step_size", 1)[0] == 0 and len(predicted) == 5  # of another CT
    (cts / "mirrored.mha").unlink()
    code, said = run("-i", cts, "-o", out, "-step_size", 1)
    assert code == 0 and "Not among the CTs given now, and so not in the tables and on the page: mirrored" in said
    assert "mirrored" not in rows(out / "trees.csv") and "mirrored" not in (out / "report.html").read_text()


@pytest.mark.parametrize("option", [[], ["--disable_tta"]])
def test_disable_tta_does_so(option, cts, run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(folder_module, "load_predictor", lambda model, settings: seen.append(settings) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("-i", cts, "-o", tmp_path / "out", *option)
    assert seen[0].mirroring == (not option)


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_other_models_and_settings_are_noticed(cts, predicted, run, tmp_path, model):
    own = shutil.copytree(model, tmp_path / "own")
    line = ("-i", cts / "chest_0000.nii.gz", "-o", tmp_path / "out")
    assert run(*line, model=own)[0] == 0
    assert run(*line, "--disable_tta", model=own)[0] == 0 and len(predicted) == 1  # it is not mirrored in any case
    assert run(*line, "-step_size", 0.75, model=own)[0] == 0 and len(predicted) == 2
    assert run(*line, "--spacing", 3, 2, 2, model=own)[0] == 0 and len(predicted) == 3
    assert run(*line, "--format", ".nrrd", model=own)[0] == 0 and len(predicted) == 4
    assert {file.name for file in (tmp_path / "out").glob("chest.*")} == {"chest.nrrd"}
    file = own / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "note": 1}, file)
    assert run(*line, "--format", ".nrrd", model=own)[0] == 0 and len(predicted) == 5
    (own / "plans.json").write_text((own / "plans.json").read_text() + "\n")
    assert run(*line, "--format", ".nrrd", model=own)[0] == 0 and len(predicted) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_a_header_that_has_been_mended_is_noticed(cts, predicted, run, tmp_path, ct, write):
    line = ("-i", cts / "chest_0000.nii.gz", "-o", tmp_path / "out")
    assert run(*line)[0] == 0
    write(cts / "chest_0000.nii.gz", ct, replace(GRID, origin=(0.0, 0.0, 0.0)))
    code, said = run(*line)
    assert code == 0 and len(predicted) == 2, said
    assert sitk.ReadImage(str(tmp_path / "out" / "chest.nii.gz")).GetOrigin() == (0, 0, 0)


@pytest.mark.usefixtures("without_page")
def test_files_of_others_are_not_replaced(cts, predicted, run, tmp_path):
    out = tmp_path / "out"
    line = ("-i", cts / "chest_0000.nii.gz", "-o", out)
    out.mkdir()
    (out / "chest.nii.gz").write_bytes(b"by hand")
    (out / "chest.nrrd").write_bytes(b"by hand, too")
    code, said = run(*line)
    assert code == 1 and "chest.nii.gz was not written by this command, or has been changed since: move it away" in said
    assert (out / "chest.nii.gz").read_bytes() == b"by hand" and not predicted
    (out / "chest.nii.gz").unlink()
    assert run(*line)[0] == 0
    corrected = sitk.ReadImage(str(out / "chest.nii.gz")) * 0
    corrected[50, 50, 50] = 1
    sitk.WriteImage(corrected, str(out / "chest.nii.gz"))
    code, said = run(*line)
    assert code == 1 and "has been changed since" in said
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(out / "chest.nii.gz"))).sum() == 1
    assert (out / "chest.nrrd").read_bytes() == b"by hand, too"


@pytest.mark.slow
@pytest.mark.usefixtures("predicted")
def test_a_case_on_which_another_process_works_is_left_to_it(cts, run, tmp_path):
    folder = tmp_path / "out" / "segmented"
    folder.mkdir(parents=True)
    code = (
        "import sys, time; from pathlib import Path; from nnunetv2_airway.io.files import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, folder / "chest.lock"], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        code, said = run("-i", cts / "chest_0000.nii.gz", "-o", tmp_path / "out", "-num_parts", 1)
        other.kill()
    assert code == 1 and "chest: FAILED: another process is segmenting it" in said


@pytest.mark.slow
def test_parts_of_a_job_array(cts, predicted, run, tmp_path):
    out = tmp_path / "out"
    for part in (0, 1, 2, 3):
        code, said = run("-i", cts, "-o", out, "-num_parts", 4, "-part_id", part)
        assert code == (1 if part in (0, 3) else 0) and f"Part {part} of 4 is segmented" in said
        assert not (out / "trees.csv").exists() and not (out / "report.html").exists()
    assert len(predicted) == 2
    assert run("-i", cts, "-o", out)[0] == 1 and len(predicted) == 2
    assert set(rows(out / "trees.csv")) == {"chest", "mirrored"}


@pytest.mark.slow
@pytest.mark.usefixtures("predicted")
def test_one_file_another_format(cts, run, tmp_path):
    code, said = run("-i", cts / "chest_0000.nii.gz", "-o", tmp_path / "out", "--format", ".nrrd")
    assert code == 0 and (tmp_path / "out" / "chest.nrrd").is_file() and "not DICOM" not in said


def test_a_lost_lung_is_pointed_out_and_pages_can_be_made_elsewhere(cts, run, tmp_path, monkeypatch):
    """One main bronchus does not hang on the tree."""

    def cut(self, hu, spacing, grid):
        found = np.zeros(hu.shape, np.uint8)
        found[30:50, 40:50, 50:60] = 1  # 28.98 ml
        found[30:40, 40:50, 62:72] = found[10, 10, 10] = 1  # 14.49 ml
        return found

    monkeypatch.setattr(AirwayPredictor, "segment_ct", cut)
    monkeypatch.setattr(AirwayPredictor, "spacing", GRID.spacing[::-1])
    monkeypatch.chdir(tmp_path)
    code, said = run("-i", "cts/chest_0000.nii.gz", "-o", "out")
    made_with = json.loads((tmp_path / "out" / "segmented" / "chest.json").read_text())["made_with"]
    z, y, x = (round(start + middle) for (start, _), middle in zip(made_with["box"], (34.5, 44.5, 66.5), strict=True))
    words = f"a piece of 14.5 ml does not hang on the tree and was left out, around voxel x {x}, y {y}, z {z}: look"
    assert code == 0 and f"chest: WARNING: {words}" in said
    assert float(rows(tmp_path / "out" / "trees.csv")["chest"]["volume_ml"]) == pytest.approx(28.98, rel=1e-5)
    monkeypatch.chdir(tmp_path / "cts")
    assert "chest" in make_measured_page(tmp_path / "out", processes=1)


def test_what_does_not_look_like_a_tree_is_no_result_unless_accepted(cts, run, tmp_path, monkeypatch):
    """A block of the lungs is called airway."""

    def leak(self, hu, spacing, grid):
        found = np.zeros(hu.shape, np.uint8)
        found[20:35, 30:50, 40:62] = 1
        return found

    monkeypatch.setattr(AirwayPredictor, "segment_ct", leak)
    monkeypatch.setattr(AirwayPredictor, "spacing", GRID.spacing[::-1])
    line = ("-i", cts / "chest_0000.nii.gz", "-o", tmp_path / "out")
    code, said = run(*line)
    assert code == 1 and "chest: FAILED: what the model found has leaked: a ball of 4" in said
    assert not (tmp_path / "out" / "chest.nii.gz").exists()
    code, said = run(*line, "--accept", "chest")
    assert code == 0 and "chest: WARNING: what the model found has" in said
    assert (tmp_path / "out" / "chest.nii.gz").is_file()
    assert (tmp_path / "out" / "report.html").is_file()
    code, said = run(*line)
    assert code == 1 and not (tmp_path / "out" / "chest.nii.gz").exists()  # accepted no longer
    assert "Not among" not in said and not (tmp_path / "out" / "report.html").exists()


@pytest.mark.usefixtures("without_page")
def test_dicom_with_a_segmentation_that_refers_to_it(ct, predicted, run, tmp_path, write_dicom):
    """Read back with pydicom alone: each frame lies where its source image does."""
    pytest.importorskip("highdicom")
    series = tmp_path / "patient"
    order = np.random.default_rng(0).permutation(len(ct))
    tags = {"PatientID": "p1", "PatientName": "A", "StudyID": "1", "FrameOfReferenceUID": "1.2.3.4", "SeriesNumber": 3}
    uid = write_dicom(series, ct, GRID, names=[f"{place:04d}" for place in order], **tags)
    out = tmp_path / "out"
    code, said = run("-i", series, "-o", out, "--dicom-seg")
    assert code == 0, said
    tree = sitk.ReadImage(str(out / "patient.nii.gz"))
    np.testing.assert_allclose(tree.GetOrigin(), GRID.origin, atol=1e-3)
    mask = sitk.GetArrayFromImage(tree)
    segmentation = pydicom.dcmread(out / "patient.dcm")
    assert segmentation.Modality == "SEG" and segmentation.PatientID == "p1"
    assert segmentation.FrameOfReferenceUID == "1.2.3.4" and segmentation.StudyInstanceUID == "1.2.3"
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    sources = {pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file) for file in series.iterdir()}
    found = np.zeros_like(mask)
    for frame, groups in zip(segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        plane = round((float(position[2]) - GRID.origin[2]) / GRID.spacing[2])
        found[plane] = frame
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(sources[source].ImagePositionPatient) == list(position)
    np.testing.assert_array_equal(found, mask)
    written = (out / "patient.dcm").read_bytes()
    assert run("-i", series, "-o", out, "--dicom-seg")[0] == 0 and len(predicted) == 1
    assert (out / "patient.dcm").read_bytes() == written
    # another tree does not leave it behind
    assert run("-i", series, "-o", out, "-step_size", 1)[0] == 0 and not (out / "patient.dcm").exists()
    assert run("-i", series, "-o", out, "-step_size", 1, "--dicom-seg")[0] == 0 and (out / "patient.dcm").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_results_beside_the_ct(ct, predicted, run, tmp_path, write_dicom):
    tags = {"PatientID": "p1", "FrameOfReferenceUID": "1.2.3.4", "StudyID": "1"}
    write_dicom(tmp_path / "cts" / "patient", ct, GRID, **tags)
    for out in (tmp_path / "cts" / "patient", tmp_path / "cts" / "patient" / "out"):
        code, said = run("-i", tmp_path / "cts" / "patient", "-o", out)
        assert code == 1 and "or lies in that of a series; choose another one" in said
    for _ in range(2):
        code, said = run("-i", tmp_path / "cts", "-o", tmp_path / "cts" / "out", "--dicom-seg")
        assert code == 0 and len(predicted) == 1, said


@pytest.mark.slow
@pytest.mark.usefixtures("predicted", "without_page")
def test_dicom_seg_says_what_it_cannot_do(cts, run, tmp_path, ct, write_dicom):
    pytest.importorskip("highdicom")
    code, said = run("-i", cts / "chest_0000.nii.gz", "-o", tmp_path / "out", "--dicom-seg")
    assert code == 0 and "chest: WARNING: not DICOM, so without a DICOM SEG" in said
    write_dicom(tmp_path / "bare", ct, GRID)  # hardly any tags
    code, said = run("-i", tmp_path / "bare", "-o", tmp_path / "out2", "--dicom-seg")
    assert code == 1 and "bare: FAILED" in said and "no DICOM SEG can be made of its series" in said
    assert (tmp_path / "out2" / "bare.nii.gz").is_file()


def test_what_cannot_be_done_is_said_before_anything_is_written(cts, run, tmp_path, model):
    out = tmp_path / "out"
    for line, words in (
        (("-i", tmp_path / "absent", "-o", out), "there is no file or folder"),
        (("-i", cts, "-o", cts), "is the folder of the CTs"),
        (("-i", cts, "-o", out, "--accept", "nobody"), "--accept names nobody, which is no case of"),
        (("-i", cts, "-o", out, "-f", "2"), "has no fold_2"),
    ):
        code, said = run(*line)
        assert code == 1 and words in said and not out.exists(), said
    (tmp_path / "note.txt").touch()
    code, said = run("-i", tmp_path / "note.txt", "-o", out)
    assert code == 1 and "is no image" in said
    code, said = run("-i", cts, "-o", out, model=tmp_path / "none")
    assert code == 1 and "there is no model" in said
    own = shutil.copytree(model, tmp_path / "own")
    plans = json.loads((own / "plans.json").read_text())
    del plans["airway_published"]
    (own / "plans.json").write_text(json.dumps(plans))
    code, said = run("-i", cts, "-o", out, "--spacing", 1, 1, 1, model=own)
    assert code == 1 and "has a grid of its own" in said and not out.exists()


@pytest.mark.parametrize("line", ["-step_size 0", "--spacing 1 1 0", "-num_parts 2", "-num_parts 2 -part_id 2"])
def test_impossible_numbers(line, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["-i", "a", "-o", "b", "-m", "c", *line.split()])
    assert end.value.code == 2


@pytest.mark.slow
def test_the_command_on_a_real_ct(real, command, tmp_path):
    """By the ATM'22 organisers' baseline, as a user has it; a minute on two CPU cores."""
    line = ("nnUNetv2_airway_segment", "-i", real / "ct" / "mediastinum_crop.nii.gz", "-o", tmp_path / "out", "-m",
            real / "weights" / "atm22_baseline.pth", "-device", "cpu")  # fmt: skip
    result = command(*line, workspace=tmp_path, TORCH_HOME=str(tmp_path / "torch"))
    assert result.returncode == 0, result.stderr
    tree = rows(tmp_path / "out" / "trees.csv")["mediastinum_crop"]
    assert 38 < float(tree["volume_ml"]) < 47 and 28 <= int(tree["branches"]) <= 36
    assert int(tree["generation_0_branches"]) == 1 and int(tree["generation_1_branches"]) == 2
    assert (tmp_path / "out" / "report.html").stat().st_size > 10**6
    again = command(*line, workspace=tmp_path, TORCH_HOME=str(tmp_path / "torch"))
    assert again.returncode == 0 and "1 of 1 cases had been segmented before" in again.stdout
