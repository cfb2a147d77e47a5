import base64
import gzip
import io

import numpy as np
import pytest
import SimpleITK as sitk
import trimesh
from PIL import Image

from nnunetv2_airway.evaluation import case as case_module
from nnunetv2_airway.evaluation.case import evaluate_files
from nnunetv2_airway.io.images import Grid
from nnunetv2_airway.report.page import scene as module
from nnunetv2_airway.report.page.scene import make_scene

pytestmark = pytest.mark.usefixtures("in_this_process")

SPACING = np.array((0.6, 0.8, 2.5))  # x, y, z
TURNED = (0, 0, -1, -1, 0, 0, 0, 1, 0)


def evaluate(references, predictions, output, *cases, airway=None) -> None:
    (output / "cases").mkdir(parents=True, exist_ok=True)
    for case in cases:
        files = references / f"{case}.nii.gz", predictions / f"{case}.nrrd"
        evaluate_files(case, *files, output, airway)


def unpack(packed) -> np.ndarray:
    planes = np.frombuffer(gzip.decompress(base64.b64decode(packed["data"])), np.uint8).reshape(packed["bytes"], -1)
    return sum(plane.astype(np.uint32) << (8 * place) for place, plane in enumerate(planes))


def unpack_mesh(packed) -> trimesh.Trimesh:
    steps = np.cumsum(unpack(packed["vertices"]).reshape(-1, 3).astype(np.uint16), axis=0, dtype=np.uint16)
    corners, fresh = [], 0
    for ago in unpack(packed["triangles"]).tolist():
        corners.append(fresh - ago)
        fresh += ago == 0
    vertices = np.array(packed["low"]) + packed["step"] * steps
    return trimesh.Trimesh(vertices, np.reshape(corners, (-1, 3)), process=False)


@pytest.mark.parametrize("direction", [None, TURNED], ids=["oblique", "turned"])
def test_surfaces_and_branches_lie_along_the_axes_of_the_upright_image(folders, fork, write_mask, direction):
    references, predictions, output = folders
    if direction:
        write_mask(references / "half.nii.gz", fork(), direction=direction)
        write_mask(predictions / "half.nrrd", 3 * fork(12), direction=direction)
    evaluate(references, predictions, output, "half")
    scene = make_scene("half", [output])
    upright = sitk.DICOMOrient(sitk.ReadImage(str(references / "half.nii.gz")), "LPS")
    airway = np.argwhere(sitk.GetArrayFromImage(upright))[:, ::-1] * upright.GetSpacing()
    mesh = unpack_mesh(scene["reference"])
    assert mesh.is_watertight
    assert mesh.center_mass == pytest.approx(airway.mean(0), abs=0.3)
    assert abs(mesh.volume) == pytest.approx(len(airway) * np.prod(upright.GetSpacing()), rel=0.1)
    middles = np.array(scene["reference"]["middles"])
    assert len(middles) == len(scene["branches"]) == 3
    nearest = [np.linalg.norm(airway - middle, axis=1).min() for middle in middles]
    assert max(nearest) < 1.5

    found = unpack(scene["reference"]["found"][0])
    branch = unpack(scene["reference"]["branch"])
    assert len(found) == len(branch) == len(mesh.vertices)
    shares = {row["number"]: row["found"][0] for row in scene["branches"]}
    assert sorted(shares.values())[1:] == [100, 100] and 20 < min(shares.values()) < 80
    for number, share in shares.items():
        assert 100 * found[branch == number].mean() == pytest.approx(share, abs=15)
    detected = {row["number"]: row["detected"][0] for row in scene["branches"]}
    assert detected == {number: share >= 80 for number, share in shares.items()}
    assert not unpack(scene["predictions"][0]["far"]).any()
    assert scene["ct"] is None


def test_each_of_two_models_has_what_it_found(folders, fork, write_mask, tmp_path):
    references, predictions, output = folders
    evaluate(references, predictions, output, "half")
    stray = fork()
    stray[2:6, 30:34, 5:9] = 1
    write_mask(tmp_path / "stray" / "half.nrrd", stray)
    evaluate(references, tmp_path / "stray", tmp_path / "second", "half")
    scene = make_scene("half", [output, tmp_path / "second"])
    first, second = (unpack(found) for found in scene["reference"]["found"])
    assert 0.1 < (first == 0).mean() < 0.5 and second.all()
    assert [unpack(each["far"]).any() for each in scene["predictions"]] == [False, True]
    assert {tuple(row["detected"]) for row in scene["branches"]} == {(True, True), (False, True)}


def test_only_what_is_predicted_far_from_the_reference_is_false(folders, fork, write_mask):
    references, predictions, output = folders
    mask = fork()
    mask[2:6, 30:34, 5:9] = 1
    write_mask(predictions / "half.nrrd", mask)
    evaluate(references, predictions, output, "half")
    packed = make_scene("half", [output])["predictions"][0]
    mesh, far = unpack_mesh(packed), unpack(packed["far"]).astype(bool)
    blob = mesh.vertices[far]
    middle = np.array((6.5, 31.5, 3.5)) * SPACING
    upright = sitk.DICOMOrient(sitk.ReadImage(str(references / "half.nii.gz")), "LPS")
    assert tuple(upright.GetDirection()) == pytest.approx((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))  # stored upright
    assert far.any() and blob.mean(0) == pytest.approx(middle, abs=0.5)
    assert len(mesh.split()) == 2 and far.sum() == min(len(part.vertices) for part in mesh.split())


def test_a_corner_may_be_farther_back_than_16_bits_reach():
    rng = np.random.default_rng(0)
    voxels = rng.random((75_000, 3))
    triangles = rng.permuted(np.arange(75_000).repeat(2)).reshape(-1, 3)
    packed = module._mesh(voxels, triangles, lambda places: places)
    assert unpack(packed["triangles"]).max() > 2**16
    corners = unpack_mesh(packed).triangles
    order = np.argsort(triangles.min(1), kind="stable")
    assert corners == pytest.approx(voxels[triangles[order]], abs=packed["step"])


@pytest.mark.parametrize("voxels", [5_000_000, 4000])
def test_the_ct_is_cut_out_around_the_airways_and_keeps_its_place(
    folders, fork, write_mask, tmp_path, monkeypatch, voxels
):
    monkeypatch.setattr(module, "MAX_VOXELS", voxels)
    references, predictions, output = folders
    ct = np.full(fork().shape, -1000, np.int16)
    ct[10:14, 16:22, 24:33] = 200
    for file, array in (
        (references / "half.nii.gz", fork()),
        (predictions / "half.nrrd", fork()),
        (tmp_path / "ct.nii.gz", ct),
    ):
        write_mask(file, array, direction=TURNED)
    evaluate(references, predictions, output, "half")
    scene = make_scene("half", [output], tmp_path / "ct.nii.gz")["ct"]
    columns, rows, planes = scene["size"]
    assert columns * rows * planes <= 1.3 * voxels
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(scene["picture"].partition(",")[2]))).convert("L"))
    volume = np.zeros((planes, rows, columns))
    for plane in range(planes):
        top, left = plane // scene["across"] * rows, plane % scene["across"] * columns
        volume[plane] = sheet[top : top + rows, left : left + columns]
    bright = np.argwhere(volume > 127)[:, ::-1] * scene["side"] + scene["low"]
    upright = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "ct.nii.gz")), "LPS")
    wanted = np.argwhere(sitk.GetArrayFromImage(upright) > 0)[:, ::-1] * upright.GetSpacing()
    assert bright.mean(0) == pytest.approx(wanted.mean(0), abs=max(0.5, scene["side"] / 2))
    assert np.ptp(bright, axis=0) == pytest.approx(np.ptp(wanted, axis=0), abs=2.2 * scene["side"])
    mesh = unpack_mesh(make_scene("half", [output])["reference"])
    low = np.array(scene["low"])
    assert (mesh.bounds[0] > low - 1.6).all()
    assert (mesh.bounds[1] <= low + scene["side"] * np.array(scene["size"]) + 1.6).all()


def test_an_empty_prediction_and_an_empty_reference_can_be_shown(folders, fork, write_mask):
    references, predictions, output = folders
    write_mask(predictions / "half.nrrd", 0 * fork())
    write_mask(references / "whole.nii.gz", 0 * fork())
    evaluate(references, predictions, output, "half", "whole")
    empty = make_scene("half", [output])
    assert len(unpack(empty["predictions"][0]["vertices"])) == 0 and not unpack(empty["reference"]["found"][0]).any()
    nothing = make_scene("whole", [output])
    assert (
        nothing["branches"] == nothing["reference"]["middles"] == [] and unpack(nothing["predictions"][0]["far"]).all()
    )


def test_files_that_are_not_those_that_were_evaluated_are_named(folders, fork, write_mask, tmp_path):
    references, predictions, output = folders
    evaluate(references, predictions, output, "half", "whole")
    with pytest.raises(ValueError, match=r"no record of other in .*cases.*evaluate again"):
        make_scene("other", [output])
    write_mask(tmp_path / "ct.nii.gz", fork()[1:])
    with pytest.raises(ValueError, match=r"the CT .*ct\.nii\.gz cannot be shown, the geometry differs from"):
        make_scene("half", [output], tmp_path / "ct.nii.gz")
    write_mask(references / "whole.nii.gz", fork(3))
    with pytest.raises(ValueError, match=r"reference .*whole\.nii\.gz has changed since it was evaluated: run"):
        make_scene("whole", [output])
    (predictions / "half.nrrd").unlink()
    with pytest.raises(ValueError, match=r"the prediction .*half\.nrrd of the evaluation is gone: run"):
        make_scene("half", [output])


def test_models_with_different_references_are_not_compared(folders, fork, write_mask, tmp_path):
    references, predictions, output = folders
    evaluate(references, predictions, output, "half")
    write_mask(tmp_path / "others" / "half.nii.gz", fork(2))
    evaluate(tmp_path / "others", predictions, tmp_path / "second", "half")
    with pytest.raises(ValueError, match=r"different references, .*labelsTs.* and .*others.*the same one"):
        make_scene("half", [output, tmp_path / "second"])
    evaluate(references, predictions, tmp_path / "third", "half", airway=[1, 3])
    with pytest.raises(ValueError, match=r"half\.nii\.gz and .*half\.nii\.gz with -l 1 3: .*the same -l"):
        make_scene("half", [output, tmp_path / "third"])


def test_a_record_of_another_version_is_refused(folders, monkeypatch):
    """Its branches may be others than those that are drawn."""
    references, predictions, output = folders
    with monkeypatch.context() as patch:
        patch.setattr(case_module, "FORMAT", "of another version")
        evaluate(references, predictions, output, "half")
    with pytest.raises(ValueError, match=r"another version.*run nnUNetv2_airway_evaluate again"):
        make_scene("half", [output])
    evaluate(references, predictions, output, "half")
    assert make_scene("half", [output])["branches"]


def test_the_frame_is_that_of_the_upright_image(fork):
    grid = Grid((0.6, 0.8, 2.5), (-100.0, 20.0, 300.0), TURNED)
    image = grid.image(fork())
    upright = sitk.DICOMOrient(image, "LPS")
    voxel = (7, 11, 13)
    place = upright.TransformPhysicalPointToContinuousIndex(image.TransformIndexToPhysicalPoint(voxel[::-1]))
    assert module.Frame(image)(np.array([voxel]))[0] == pytest.approx(np.multiply(place, upright.GetSpacing()))
