"""Folders of masks: tables, files for other tools, faults, parts of a job array."""

import csv
import json
import math
import os
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
from plyfile import PlyData

from nnunetv2_airway.cli import measure as command
from nnunetv2_airway.measurement import case as case_module
from nnunetv2_airway.report.page.measured import make_measured_page

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def masks(tmp_path, fork, write_mask):
    """Two masks, a folder with their CTs, and one for the results."""
    for name, cut in (("whole", 0), ("half", 12)):
        write_mask(tmp_path / "masks" / f"{name}.nii.gz", fork(cut))
        write_mask(tmp_path / "cts" / f"{name}_0000.nii.gz", np.where(fork(cut) > 0, -950, 40).astype(np.int16))
    return tmp_path / "masks", tmp_path / "cts", tmp_path / "out"


@pytest.fixture
def quick(monkeypatch):
    """Draw no pictures, which takes most of the time of a small tree."""
    monkeypatch.setattr(case_module, "draw_generations", lambda file, *args, **options: file.touch())


@pytest.fixture
def run(run_main):
    """The function that runs the command: (exit code, what it says)."""
    return partial(run_main, command.main)


def rows(file) -> list[dict]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_tables_and_files(masks, run):
    folder, cts, out = masks
    code, said = run("-i", folder, "-o", out, "--ct", cts)
    assert code == 0 and "whole" in said
    trees = {row["case"]: row for row in rows(out / "trees.csv")}
    assert list(trees) == ["half", "whole"]
    whole = trees["whole"]
    assert (whole["branches"], whole["ends"], whole["deepest_generation"], whole["pieces"]) == ("3", "2", "1", "1")
    assert float(whole["lumen_hu"]) == -950
    assert float(whole["total_length_mm"]) > float(trees["half"]["total_length_mm"])
    assert float(whole["generation_0_length_mm"]) + float(whole["generation_1_length_mm"]) == pytest.approx(
        float(whole["total_length_mm"])
    )
    branches = [row for row in rows(out / "branches.csv") if row["case"] == "whole"]
    (trunk,) = (row for row in branches if row["generation"] == "0")
    assert sorted(map(int, trunk["children"].split())) == sorted(
        int(row["branch"]) for row in branches if row["parent"] == trunk["branch"]
    )
    assert trunk["angle_deg"] == "" and all(0 < float(row["angle_deg"]) < 90 for row in branches if row != trunk)
    ends = [np.array([float(row[f"start_{axis}_mm"]) for axis in "xyz"]) for row in branches]
    content = json.loads((out / "export" / "whole_centerline.json").read_text())
    assert content["space"] == "RAS" and len(content["branches"]) == 3
    for row, own in zip(branches, content["branches"], strict=True):
        assert own["length_mm"] == pytest.approx(float(row["length_mm"]))
        assert own["diameter_mm"] == pytest.approx(float(row["diameter_mm"]))
        assert own["tortuosity"] == pytest.approx(float(row["tortuosity"]))
    vertices = PlyData.read(out / "export" / "whole.ply")["vertex"]
    points = np.stack([vertices[axis] for axis in "xyz"], 1)
    for end in ends:
        assert np.linalg.norm(points - end, axis=1).min() < 4
    assert (out / "cases" / "whole.png").stat().st_size > 10_000


def test_units_stand_in_every_header(masks, run, quick):
    folder, _, out = masks
    run("-i", folder, "-o", out)
    plain = {
        "case", "mask_file", "branch", "branches", "generation", "parent", "children", "ends", "deepest_generation",
        "pieces", "orientation", "tortuosity",
    }  # fmt: skip
    units = ("_mm", "_ml", "_percent", "_hu", "_deg", "_mm2", "_mm3", "_percent_per_mm", "_branches")
    for name in ("trees.csv", "branches.csv"):
        header = rows(out / name)[0].keys()
        assert [title for title in header if title not in plain and not title.endswith(units)] == []


def test_it_goes_on_where_it_stopped(masks, run, quick, fork, write_mask, monkeypatch):
    folder, cts, out = masks
    run("-i", folder, "-o", out)
    times = {file: file.stat().st_mtime_ns for file in (out / "export").iterdir()}
    assert "2 of 2 cases had been measured before" in run("-i", folder, "-o", out)[1]
    write_mask(folder / "half.nii.gz", fork(5))
    (out / "export" / "whole.ply").unlink()
    assert "measured before" not in run("-i", folder, "-o", out)[1]
    assert all(file.stat().st_mtime_ns != before for file, before in times.items())
    for options in (("-l", 1), ("--ct", cts)):
        assert "measured before" not in run("-i", folder, "-o", out, *options)[1]
    monkeypatch.setattr(case_module, "FORMAT", "another")
    assert "measured before" not in run("-i", folder, "-o", out)[1]


def test_parts_of_a_job_array_and_the_call_that_collects_them(masks, run, quick):
    folder, _, out = masks
    for part in (0, 1):
        code, said = run("-i", folder, "-o", out, "-num_parts", 2, "-part_id", part)
        assert code == 0 and f"Part {part} of 2" in said and not (out / "trees.csv").exists()
    _, said = run("-i", folder, "-o", out)
    assert "2 of 2 cases had been measured before" in said and len(rows(out / "trees.csv")) == 2
    assert run("-i", folder, "-o", out, "-num_parts", 2, "-part_id", 2)[0] == 2
    code, said = run("-i", folder, "-o", out, "-num_parts", 2)
    assert code == 2 and "needs a -part_id of 0 to 1, got None" in said
    (folder / "half.nii.gz").unlink()
    _, said = run("-i", folder, "-o", out)
    assert "Not among the masks given now, and so not in the tables: half\n" in said
    assert [row["case"] for row in rows(out / "trees.csv")] == ["whole"]


def test_faults_are_one_line_and_spare_the_others(masks, run, quick, fork, write_mask):
    folder, _, out = masks
    write_mask(folder / "empty.nii.gz", 0 * fork())
    write_mask(folder / "ct.nii.gz", np.random.default_rng(0).integers(-1000, 500, fork().shape).astype(np.int16))
    write_mask(folder / "probability.nii.gz", (fork() / 27 * np.arange(60)[None, None] / 3).astype(np.float32))
    image = sitk.ReadImage(str(folder / "whole.nii.gz"))
    image.SetSpacing((0.0005, 0.0005, 0.0005))
    sitk.WriteImage(image, str(folder / "tiny.nii.gz"))
    code, said = run("-i", folder, "-o", out)
    assert code == 1 and "4 of 6 masks could not be measured, see above; the others are complete" in said
    for name, words in (
        ("empty", "holds no airway: the mask is empty"),
        ("ct", "Is it a CT?"),
        ("probability", "nnUNetv2_airway_measure has --threshold"),
        ("tiny", "its spacing is not in mm"),
    ):
        (line,) = (line for line in said.splitlines() if line.startswith(f"{name}: FAILED: "))
        assert words in line
    assert "Traceback" not in said and [row["case"] for row in rows(out / "trees.csv")] == ["half", "whole"]
    (folder / "whole.mha").write_bytes(b"")
    assert "one file a case is needed" in run("-i", folder, "-o", out)[1]


def test_a_threshold_for_probabilities(masks, run, quick, fork, write_mask):
    folder, _, out = masks
    for file in folder.iterdir():
        file.unlink()
    write_mask(folder / "map.nii.gz", np.where(fork() > 0, 14, 3).astype(np.float32) / 27)
    assert run("-i", folder, "-o", out, "--threshold", "0.5")[0] == 0
    expected = np.count_nonzero(fork()) * 2.5 * 0.8 * 0.6 / 1000
    assert float(rows(out / "trees.csv")[0]["volume_ml"]) == pytest.approx(expected)
    code, said = run("-i", folder, "-o", out, "--threshold", "0.9")
    assert code == 1 and "must be a map of probabilities" in said


def test_a_ct_of_another_mask_is_named(masks, run, quick, fork, write_mask):
    folder, cts, out = masks
    write_mask(cts / "half_0000.nii.gz", np.full(fork().shape, 40, np.int16))
    write_mask(cts / "whole_0000.nii.gz", np.full((9, 9, 9), 40, np.int16))
    code, said = run("-i", folder, "-o", out, "--ct", cts)
    assert code == 1 and "half: WARNING: the lumen has 40 HU on average" in said
    assert f"whole: FAILED: the CT {cts / 'whole_0000.nii.gz'} is not that of" in said
    (cts / "whole_0000.nii.gz").unlink()
    assert "has no CT of whole" in run("-i", folder, "-o", out, "--ct", cts)[1]
    assert "choose another one for the results" in run("-i", folder, "-o", folder)[1]


def test_what_is_not_measured_is_said_in_the_terminal_and_on_the_page(masks, run, quick, fork, write_mask):
    folder, _, out = masks
    mask = fork()
    mask[:4, :4, :4] = 1
    write_mask(folder / "whole.nii.gz", mask)
    code, said = run("-i", folder, "-o", out)
    words = f"{100 * 64 / np.count_nonzero(mask):.1f} % of the mask lie outside its largest piece and are not measured"
    assert code == 0 and f"whole: WARNING: {words}" in said and "half: WARNING: 0." not in said
    page = make_measured_page(out, processes=1)
    assert f"whole: {words}" in page and "half: 0." not in page


def test_other_tools_read_the_files(masks, run, quick):
    vtk = pytest.importorskip("vtk")
    trimesh = pytest.importorskip("trimesh")
    pandas = pytest.importorskip("pandas")
    folder, _, out = masks
    run("-i", folder, "-o", out)
    reader = vtk.vtkPolyDataReader()
    reader.SetFileName(os.fspath(out / "export" / "whole_centerline.vtk"))
    reader.Update()
    line = reader.GetOutput()
    frame = pandas.read_csv(out / "branches.csv")
    frame = frame[frame.case == "whole"]
    cells = line.GetCellData()
    lengths = {
        int(cells.GetArray("branch").GetTuple1(k)): cells.GetArray("length").GetTuple1(k)
        for k in range(line.GetNumberOfCells())
    }
    assert lengths == pytest.approx(dict(zip(frame.branch, frame.length_mm, strict=True)), rel=1e-4)
    mesh = trimesh.load(out / "export" / "whole.ply")
    volume = pandas.read_csv(out / "trees.csv").set_index("case").volume_ml["whole"]
    assert mesh.is_watertight and math.isclose(mesh.volume / 1000, volume, rel_tol=0.1)
