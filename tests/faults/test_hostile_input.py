"""Properties that hold for whatever is put in: no crash, no nan where there is a figure, nothing that depends on how a
volume happens to be stored."""

import gzip
import pickle
import re
import resource
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnunetv2_airway.evaluation.metrics import evaluate_case
from nnunetv2_airway.evaluation.summary import flatten
from nnunetv2_airway.inference.postprocessing import keep_airway_tree
from nnunetv2_airway.io.files import read_record
from nnunetv2_airway.io.images import Grid, read_mask, read_volume
from nnunetv2_airway.training.maps.numbers import branch_numbers, component_numbers
from nnunetv2_airway.training.maps.store import MapStore
from nnunetv2_airway.training.sampling.hard_regions import HardRegions
from nnunetv2_airway.tree.branches import measure_branches
from nnunetv2_airway.tree.centerline import centerline, centerline_closeness, centerline_distance_weight
from nnunetv2_airway.tree.components import connected_components, largest_component
from nnunetv2_airway.tree.parse import parse_tree
from nnunetv2_airway.tree.store import stored_tree

DTYPES = (np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64)
SHAPES = st.tuples(*[st.integers(1, 6)] * 3)
AIIB23_SHARES = ("IoU", "DLR", "DBR", "precision", "AMR")
COUNTS = ("branches", "branches_detected", "connected_components", "leakage_count", "branch_count")
SPACINGS = st.tuples(*[st.floats(0.05, 20, allow_nan=False)] * 3)


def for_all(short: int = 100, **strategies: st.SearchStrategy) -> Callable:
    """Run a check on a few examples, the same ones each time, or in the long form on many new ones."""

    def test_of(check: Callable) -> Callable:
        @pytest.mark.parametrize("examples", [short, pytest.param(40 * short, marks=pytest.mark.long)])
        def test(examples):
            chosen = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=examples == short,
                suppress_health_check=[HealthCheck.too_slow],
            )
            chosen(given(**strategies)(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return test_of


@st.composite
def masks(draw) -> np.ndarray:
    """Noise, boxes, crossing tubes or nothing, of any small shape, type and order in memory."""
    shape = draw(st.tuples(*[st.integers(1, 20)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(("empty", "full", "noise", "boxes", "tubes", "one voxel")))
    mask = np.zeros(shape, bool)
    if kind == "full":
        mask[:] = True
    elif kind == "noise":
        mask = rng.random(shape) < draw(st.floats(0, 1))
    elif kind == "one voxel":
        mask[tuple(rng.integers(shape))] = True
    elif kind != "empty":
        for _ in range(draw(st.integers(1, 6))):
            low = rng.integers(shape)
            if kind == "boxes":
                high = rng.integers(low, shape) + 1
            else:
                high = np.minimum(low + rng.integers(1, 4, 3), shape)
                axis = rng.integers(3)
                low[axis], high[axis] = 0, shape[axis]
            mask[tuple(map(slice, low, high))] = True
    dtype = draw(st.sampled_from(DTYPES))
    values = mask.astype(dtype) * dtype(draw(st.sampled_from((1, 3, 100))) if dtype is not np.bool_ else True)
    order = draw(st.sampled_from(("C", "F", "reversed", "read-only")))
    if order == "F":
        values = np.asfortranarray(values)
    elif order == "reversed":
        values = np.flip(np.flip(values).copy())
    elif order == "read-only":
        values.setflags(write=False)
    return values


@st.composite
def turns(draw) -> Callable[[np.ndarray], np.ndarray]:
    """One of the 48 ways to store a volume along its axes."""
    axes, flips = draw(st.permutations(range(3))), draw(st.lists(st.integers(0, 2), unique=True))
    return lambda volume: np.flip(np.transpose(volume, axes), flips)


def order_of_axes(turn: Callable, values: tuple) -> tuple:
    """Give a spacing in the order of the axes of a turned volume."""
    shape = turn(np.zeros((2, 3, 5), bool)).shape
    return tuple(values[(2, 3, 5).index(length)] for length in shape)


def clear_largest(mask: np.ndarray, connectivity: int) -> bool:
    """Whether one component is larger than every other, so that storage cannot decide."""
    sizes = np.sort(np.bincount(connected_components(mask != 0, connectivity=connectivity).ravel())[1:])
    return len(sizes) < 2 or sizes[-1] > sizes[-2]


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack((one.ravel(), other.ravel()), 1), axis=0)
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


@for_all(mask=masks(), spacing=SPACINGS)
def test_a_tree_has_every_voxel_of_its_airway_and_a_trachea(mask, spacing):
    tree = parse_tree(mask)
    airway = largest_component(mask, connectivity=6)
    assert np.array_equal(tree.labels > 0, airway)
    assert np.array_equal(np.unique(tree.labels[airway]), np.arange(1, tree.num_branches + 1))
    assert not (tree.skeleton & ~airway).any() and tree.skeleton.any() == airway.any()
    assert len(tree.parents) == len(tree.generations) == tree.num_branches
    for branch in measure_branches(tree, spacing):
        if branch.number == 1 + np.argmin(tree.generations):
            assert branch.parent == 0
        else:
            assert 1 <= branch.parent <= tree.num_branches
            assert tree.generations[branch.parent - 1] == branch.generation - 1
        assert (
            np.isfinite(branch.length) and branch.length >= 0 and np.isfinite(branch.diameter) and branch.diameter > 0
        )


@for_all(reference=masks(), prediction=masks(), spacing=SPACINGS)
def test_figures_are_in_their_range_or_undefined(reference, prediction, spacing):
    found = np.zeros(reference.shape, prediction.dtype)
    part = tuple(map(slice, np.minimum(reference.shape, prediction.shape)))
    found[part] = prediction[part]
    shares = ("atm26.DSC", "atm26.clDice", "atm26.TLD", "atm26.BD", *(f"aiib23.{word}" for word in AIIB23_SHARES))
    counts = ("atm26.Betti0Error", "atm26.branch_detected", "atm26.branch_total", "aiib23.leakage")
    for name, value in flatten(evaluate_case(found, reference, spacing)):
        word = name.split(".")[-1]
        if name in shares:
            assert np.isnan(value) or 0 <= value <= 1 + 1e-9, name
        elif name in counts:
            assert not value < 0, name
        elif np.isnan(value):
            assert word not in (
                "branches",
                "branches_detected",
                "connected_components",
                "leakage_count",
                "branch_count",
            )
        elif word in COUNTS or word in ("leakage_volume_mm3", "tree_length_cm"):
            assert 0 <= value < np.inf, name
        else:
            assert 0 <= value <= 100 + 1e-9, name


@for_all(mask=masks(), spacing=SPACINGS)
def test_a_reference_finds_itself(mask, spacing):
    airway = largest_component(mask, connectivity=6)
    figures = evaluate_case(airway, mask, spacing)
    if airway.any():
        wanted = ("tree_length_detected", "branch_detected", "dice", "precision", "sensitivity")
        assert [figures[name] for name in wanted] == [100] * 5
        assert figures["exact09"]["leakage_count"] == figures["exact09"]["leakage_volume_mm3"] == 0
    else:
        assert np.isnan(figures["dice"]) and figures["branches"] == 0


@for_all(mask=masks(), other=masks(), spacing=SPACINGS, factor=st.floats(0.01, 100))
def test_the_scale_of_the_spacing_scales_mm_and_nothing_else(mask, other, spacing, factor):
    scaled = tuple(factor * step for step in spacing)
    tree = parse_tree(mask)
    for one, two in zip(measure_branches(tree, spacing), measure_branches(tree, scaled), strict=True):
        assert two.length == pytest.approx(factor * one.length) and two.diameter == pytest.approx(factor * one.diameter)
        assert (one.start, one.end, one.parent) == (two.start, two.end, two.parent)
    found = np.zeros(mask.shape, bool)
    part = tuple(map(slice, np.minimum(mask.shape, other.shape)))
    found[part] = other[part]
    one, two = (evaluate_case(found, tree, step) for step in (spacing, scaled))
    powers = {"tree_length_cm": 1, "leakage_volume_mm3": 3}
    for name in one["exact09"].keys() - {"branch_count", "branch_detected"}:  # these have a limit in mm
        expected = one["exact09"][name] * factor ** powers.get(name, 0)
        assert two["exact09"][name] == pytest.approx(expected, nan_ok=True)
    for name in one.keys() - {"exact09", "by_diameter"}:
        assert dict(flatten({name: two[name]})) == pytest.approx(dict(flatten({name: one[name]})), nan_ok=True)
    weight = centerline_distance_weight(mask, spacing)
    assert centerline_distance_weight(mask, scaled) == pytest.approx(weight, abs=1e-5)


@for_all(mask=masks(), spacing=SPACINGS)
def test_maps_are_finite_and_lie_where_the_airways_are(mask, spacing):
    line, airway = centerline(mask), np.asarray(mask) > 0
    assert not (line & ~airway).any()
    components = connected_components(airway, connectivity=26)
    assert set(np.unique(components[line])) >= set(np.unique(components)) - {0}, "no piece is without a centerline"
    closeness, voxels = centerline_closeness(mask, spacing)
    assert closeness.dtype == np.uint8 and np.array_equal(np.argwhere(closeness == 255), np.argwhere(line))
    assert len(voxels) == line.sum()
    weight = centerline_distance_weight(mask, spacing)
    assert np.isfinite(weight).all() and weight.min() >= 0 and weight.max() <= 1 and not weight[~airway].any()
    numbers = branch_numbers(mask, spacing)
    assert (numbers[airway] > 0).all() and numbers.min() >= 0


@for_all(mask=masks(), turn=turns())
def test_components_and_post_processing_do_not_depend_on_how_a_volume_is_stored(mask, turn):
    assert same_partition(
        turn(component_numbers(mask))[turn(mask) != 0], component_numbers(turn(mask))[turn(mask) != 0]
    )
    kept = keep_airway_tree(mask)
    assert kept.dtype == mask.dtype and set(np.unique(kept)) <= set(np.unique(mask)) | {0}
    assert np.array_equal(keep_airway_tree(kept), kept)
    if clear_largest(mask, 26):
        assert np.array_equal(turn(kept), keep_airway_tree(turn(mask)))
    else:
        assert connected_components(kept != 0, connectivity=26).max(initial=0) <= 1


@for_all(reference=masks(), prediction=masks(), turn=turns(), spacing=SPACINGS)
def test_figures_of_voxels_do_not_depend_on_how_a_volume_is_stored(reference, prediction, turn, spacing):
    if not clear_largest(reference, 6):
        return
    found = np.zeros(reference.shape, bool)
    part = tuple(map(slice, np.minimum(reference.shape, prediction.shape)))
    found[part] = prediction[part]
    one = evaluate_case(found, reference, spacing)
    two = evaluate_case(turn(found), turn(reference), order_of_axes(turn, spacing))
    for name in ("dice", "precision", "sensitivity", "specificity", "connected_components"):
        assert two[name] == pytest.approx(one[name], nan_ok=True), name


@for_all(
    content=arrays.arrays(
        st.sampled_from(DTYPES[1:]), st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 100)
    ),
    header=st.lists(st.tuples(st.integers(0, 347), st.integers(0, 255)), min_size=1, max_size=12),
    ending=st.sampled_from((".nii", ".nii.gz")),
)
def test_noise_in_a_header_is_refused_or_read_as_a_volume(content, header, ending):
    with tempfile.TemporaryDirectory() as folder:
        check_noise(Path(folder, f"a{ending}"), content, header)


def check_noise(file: Path, content: np.ndarray, header: list[tuple[int, int]]) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(content), str(file))
    packed = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    noisy = bytearray(packed)
    for place, value in header:
        noisy[place] = value
    file.write_bytes(gzip.compress(bytes(noisy)) if file.suffix == ".gz" else bytes(noisy))
    try:
        image = read_volume(file)
    except ValueError as error:
        assert str(file) in str(error)
        return
    array = sitk.GetArrayFromImage(image)
    assert array.ndim == 3 and array.nbytes <= 16 * len(noisy), "no memory for what is not there"
    assert np.isfinite(Grid.of(image).spacing).all() and min(image.GetSpacing()) > 0
    try:
        read_mask(file)
    except ValueError as error:
        assert str(file) in str(error)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_header_that_asks_for_gigabytes_gets_none(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.Image([6, 5, 4], sitk.sitkUInt8), str(file))
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    content = re.sub(rb"(DimSize = |sizes: )6 5 4", rb"\g<1>2000 2000 2000", content)
    if ".nii" in ending:
        content = content[:42] + struct.pack("<3h", 2000, 2000, 2000) + content[48:]
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    tracked = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"cannot read .*a{re.escape(ending)}"):
        read_volume(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < tracked + 1_000_000, "kB"


def test_nothing_of_ours_runs_what_a_file_brings(tmp_path, bomb):
    """Caches lie beside references and maps beside preprocessed data, which people download: a pickle is not read."""
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1:5, 2:5, 2:6] = 1
    file = tmp_path / "tree.npz"
    np.savez(file, fingerprint=np.array([bomb], object), shape=np.array([bomb], object))
    assert stored_tree(file, mask, "x").num_branches == 1
    preprocessed = tmp_path / "plans_3d"
    preprocessed.mkdir()
    (preprocessed / "a.npz").write_bytes(b"a label")
    maps = MapStore(preprocessed, (1.0, 1.0, 1.0), (1,), "centerline")
    regions = HardRegions(tmp_path, maps, "run")
    np.savez(tmp_path / "a.npz", voxels=np.array([bomb], object), made_from=np.array([bomb], object))
    assert regions.read("a") is None
    maps.folder.mkdir()
    (maps.folder / "a.b2nd").write_bytes(pickle.dumps(bomb))
    assert maps.missing(["a"]) == ["a"]
    (tmp_path / "a.json").write_bytes(pickle.dumps(bomb))
    assert read_record(tmp_path / "a.json") == {}
    assert not (tmp_path / "ran").exists()


class Bomb:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.fixture
def bomb(tmp_path) -> Bomb:
    """An object that creates the file ``ran`` when it is unpickled."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    (tmp_path / "ran").unlink()
    return Bomb(tmp_path / "ran")


def test_names_from_dicom_files_lead_nowhere(tmp_path, scans, write, write_dicom, convert_here):
    hu, mask = scans[0]
    inside = tmp_path / "a" / "b"
    tags = {"PatientID": "../../../evil", "SeriesDescription": "../../evil", "StudyInstanceUID": "../evil"}
    write_dicom(inside / "cts" / "case..", hu, uid="1.2../../../evil", **tags)
    write(inside / "masks" / "case...nii.gz", mask)
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    folders = ("-i", inside / "cts", "-l", inside / "masks", "-o", inside / "out")
    assert convert_here("folder", *folders, "-d", 510, workspace=inside)[0] == 0
    written = {file for file in tmp_path.rglob("*") if file.is_file()} - before
    assert written and all(file.is_relative_to(inside / "out") for file in written)
    code, output = convert_here("folder", "-i", inside / "cts", "-d", 510, "-name", "../../x", workspace=inside)
    assert code == 1 and "the name of a data set is of letters" in output
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == before | written
