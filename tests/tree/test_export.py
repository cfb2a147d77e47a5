"""The exported files, opened by VTK, trimesh and nibabel, which know nothing of ours."""

import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import trimesh
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOLegacy import vtkPolyDataReader
from vtkmodules.vtkIOPLY import vtkPLYReader

from nnunetv2_airway.evaluation.case import exported_files
from nnunetv2_airway.evaluation.folder import evaluate_folder
from nnunetv2_airway.io.images import Grid
from nnunetv2_airway.tree.branches import line_lengths, measure_branches
from nnunetv2_airway.tree.export import measure_centerline
from nnunetv2_airway.tree.parse import parse_tree

pytestmark = pytest.mark.usefixtures("in_this_process")

SPACING = (2.5, 0.8, 0.6)
GRID = Grid((0.6, 0.8, 2.5), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)
OBLIQUE = (0.8, -0.48, 0.36, 0.6, 0.64, -0.48, 0, 0.6, 0.8)
LEFT_HANDED = (0, 0, -1, -1, 0, 0, 0, -1, 0)


def read(reader, file):
    reader.SetFileName(str(file))
    reader.Update()
    return reader.GetOutput()


def arrays(data) -> dict[str, np.ndarray]:
    return {data.GetArrayName(k): vtk_to_numpy(data.GetArray(k)) for k in range(data.GetNumberOfArrays())}


def lines_of(mesh) -> list[list[int]]:
    cells = mesh.GetLines()
    offsets, points = vtk_to_numpy(cells.GetOffsetsArray()), vtk_to_numpy(cells.GetConnectivityArray())
    return [points[a:b].tolist() for a, b in itertools.pairwise(offsets)]


@pytest.fixture(params=[IDENTITY, OBLIQUE, LEFT_HANDED], ids=["identity", "oblique", "left-handed"])
def exported(request, tmp_path, fork, write_mask):
    """A fork and a prediction that lacks half a branch as NIfTI files, evaluated; files and images of both."""
    files = [tmp_path / name / "fork.nii.gz" for name in ("labelsTs", "predictions")]
    for file, cut in zip(files, (0, 12), strict=True):
        write_mask(file, fork(cut), direction=request.param)
    evaluate_folder(files[0].parent, files[1].parent, tmp_path / "out", export=True)
    found = exported_files(tmp_path / "out", "fork")
    return zip((found[:3], found[3:]), map(nib.load, files), (0, 12), strict=True)


def to_voxels(image, points) -> np.ndarray:
    return nib.affines.apply_affine(np.linalg.inv(image.affine), points)


def test_surfaces_lie_at_the_world_coordinates_of_the_nifti(exported):
    for (ply, *_), image, _ in exported:
        mask = np.asarray(image.dataobj) > 0
        mesh = trimesh.load(ply, process=False)
        vtk = read(vtkPLYReader(), ply)
        assert np.array_equal(vtk_to_numpy(vtk.GetPoints().GetData()), mesh.vertices.astype(np.float32))
        assert mesh.is_watertight
        volume = mask.sum() * abs(np.linalg.det(image.affine))
        assert mesh.volume == pytest.approx(volume, rel=0.1)  # positive: its normals point outwards
        weights = mesh.area_faces / mesh.area
        assert weights.sum() == pytest.approx(1)
        centre = to_voxels(image, mesh.center_mass)
        assert centre == pytest.approx(np.argwhere(mask).mean(0), abs=0.2)
        voxels = to_voxels(image, mesh.vertices)
        for side in (0, 1):
            end = (np.argwhere(mask).min(0) - 0.5, np.argwhere(mask).max(0) + 0.5)[side]
            assert (voxels.min(0), voxels.max(0))[side] == pytest.approx(end, abs=0.6)
        assert "comment SPACE=RAS" in ply.read_bytes()[:300].decode(errors="replace")


def test_centerlines_are_connected_trees_at_the_world_coordinates_of_the_nifti(exported, fork, tmp_path):
    record = json.loads((tmp_path / "out" / "cases" / "fork.json").read_text())
    for (_, vtk, facts), image, cut in exported:
        tree = parse_tree(fork(cut))
        branches = measure_branches(tree, SPACING)
        mesh = read(vtkPolyDataReader(), vtk)
        points = vtk_to_numpy(mesh.GetPoints().GetData())
        voxels = to_voxels(image, points)
        assert voxels == pytest.approx(tree.line[:, ::-1], abs=1e-3)  # NIfTI's axes are (column, row, plane)
        at_points, at_lines = arrays(mesh.GetPointData()), arrays(mesh.GetCellData())
        assert at_points["branch"].tolist() == tree.line_branch.tolist()
        assert at_points["radius"] == pytest.approx(measure_centerline(tree, GRID).radius, rel=1e-5)
        for name in ("generation", "parent", "length", "diameter"):
            wanted = [getattr(branches[number - 1], name) for number in tree.line_branch]
            assert at_points[name] == pytest.approx(wanted, rel=1e-5)
        lines = lines_of(mesh)
        steps = {frozenset(step) for line in lines for step in itertools.pairwise(line)}
        assert len(steps) == sum(len(line) - 1 for line in lines) == len(points) - 1
        reached = {lines[0][0]}
        for line in lines:  # from the trachea outwards: each goes on from what is there
            assert line[0] in reached
            reached.update(line)
        assert len(reached) == len(points)
        assert at_lines["branch"].tolist() == [tree.line_branch[line[-1]] for line in lines]
        content = json.loads(facts.read_text())
        assert (content["space"], content["unit"]) == ("RAS", "mm")
        for branch, row in zip(branches, content["branches"], strict=True):
            assert (row["number"], row["generation"], row["parent"]) == (
                branch.number,
                branch.generation,
                branch.parent,
            )
            assert [b.number for b in branches if b.parent == branch.number] == row["children"]
            assert to_voxels(image, row["start"]) == pytest.approx(branch.start[::-1], abs=1e-3)
            assert to_voxels(image, row["end"]) == pytest.approx(branch.end[::-1], abs=1e-3)
            assert (row["length_mm"], row["diameter_mm"]) == pytest.approx((branch.length, branch.diameter), rel=1e-5)
            if not cut:
                recorded = record["branches"][branch.number - 1]
                assert (row["found"], row["detected"]) == (recorded["found"], recorded["detected"])
            wanted = [line for line in lines if tree.line_branch[line[-1]] == branch.number]
            for line, places in zip(wanted, row["lines"], strict=True):
                assert np.array(places) == pytest.approx(
                    np.column_stack([points[line], at_points["radius"][line]]), abs=1e-3
                )
            own = [point for line in row["lines"] for point in line[1:]]
            assert len(own) == (tree.line_branch == branch.number).sum() - (branch.generation == 0)
        length = sum(np.linalg.norm(points[list(step)][0] - points[list(step)][1]) for step in map(tuple, steps))
        assert length == pytest.approx(line_lengths(tree, SPACING).sum(), rel=0.1)


def test_the_radius_of_a_tube_at_anisotropic_spacing():
    places = np.indices((40, 60, 80))
    away = np.hypot((places[1] - 30) * 0.8, (places[2] - 40) * 0.6)
    for radius in (3.0, 8.0):
        tree = parse_tree((away <= radius) & (places[0] > 3) & (places[0] < 37))
        line = measure_centerline(tree, GRID)
        middle = abs(tree.line[:, 0] - 20) < 6
        assert line.radius[middle] == pytest.approx(radius, abs=0.6)


def test_the_radius_reaches_the_edge_of_the_voxels():
    mask = np.zeros((40, 20, 20), bool)
    mask[3:37, 8:13, 9:12] = True  # 4.0 x 1.8 mm across
    tree = parse_tree(mask)
    middle = abs(tree.line[:, 0] - 20) < 6
    assert measure_centerline(tree, GRID).radius[middle] == pytest.approx(0.9, abs=0.01)


@pytest.mark.slow
def test_exports_are_made_again_when_they_are_gone_and_vanish_with_their_case(folders):
    references, predictions, output = folders
    evaluate_folder(references, predictions, output)
    assert not (output / "export").exists()
    evaluation = evaluate_folder(references, predictions, output, export=True)
    assert all(file.exists() for case in ("whole", "half") for file in exported_files(output, case))
    assert not any("from_earlier" in record for record in evaluation.cases.values())
    exported_files(output, "half")[4].unlink()
    evaluation = evaluate_folder(references, predictions, output, export=True)
    assert ["from_earlier" in evaluation.cases[case] for case in ("whole", "half")] == [True, False]
    assert exported_files(output, "half")[4].exists()
    (predictions / "half.nrrd").unlink()
    evaluate_folder(references, predictions, output)
    assert not any(file.exists() for file in exported_files(output, "half"))
    assert all(file.exists() for file in exported_files(output, "whole"))


def test_an_empty_prediction_is_exported_as_nothing(folders, fork, write_mask):
    references, predictions, output = folders
    write_mask(predictions / "half.nrrd", 0 * fork())
    evaluate_folder(references, predictions, output, export=True)
    ply, vtk, facts = exported_files(output, "half")[3:]
    assert read(vtkPLYReader(), ply).GetNumberOfPoints() == 0
    assert read(vtkPolyDataReader(), vtk).GetNumberOfPoints() == 0
    assert json.loads(facts.read_text())["branches"] == []
