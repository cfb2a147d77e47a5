"""Length, diameter, angle and course against closed forms, and against tubes whose true diameters are known."""

import re
import subprocess
import sys
from dataclasses import asdict

import cc3d
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import find_objects

from nnunetv2_airway import measure
from nnunetv2_airway.measurement.measure import measure_image

SPACINGS = [(0.7, 0.7, 0.7), (1.25, 0.7, 0.6), (2.5, 0.7, 0.7)]
TURNED = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]


def line(start, end, points=300) -> np.ndarray:
    return np.linspace(start, end, points)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 0, 1), (2, 1, 0), (1, 2, 3), (0, 10, 1)])
@pytest.mark.parametrize("radius", [2.0, 4.0])
def test_straight_tubes_of_any_slant(tubes, spacing, direction, radius):
    along = np.array(direction) / np.linalg.norm(direction)
    (branch,) = measure(tubes((line(-20 * along, 20 * along), radius), spacing=spacing), spacing)
    assert branch.length_mm == pytest.approx(40, rel=0.05)
    coarse = 0.2 * max(spacing)  # of two slices that a tube meets, it fills one or both
    assert branch.diameter_mm == pytest.approx(2 * radius, abs=coarse)
    assert 2 * radius - 2.5 * coarse < branch.diameter_min_mm < branch.diameter_max_mm < 2 * radius + 2.5 * coarse
    assert branch.area_mm2 == pytest.approx(np.pi * (branch.diameter_mm / 2) ** 2)
    assert branch.volume_mm3 == pytest.approx(40 * np.pi * radius**2, rel=0.1 + 0.05 * max(spacing))
    assert branch.tortuosity < 1.03 and abs(branch.taper_percent_per_mm) < 0.4
    assert np.isnan(branch.angle_deg) and (branch.parent, branch.children, branch.generation) == (0, (), 0)
    ends = np.array([branch.end_mm, branch.start_mm])
    chord = np.ptp(ends, axis=0) * (-1, -1, 1)
    assert np.abs(np.abs(chord) - np.abs(40 * along[::-1])).max() < 2.5


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_tube_that_narrows(tubes, spacing):
    along = TURNED[0]
    mask = tubes((line(-25 * along, 25 * along), np.linspace(5, 3, 300)), spacing=spacing)
    (branch,) = measure(mask, spacing)
    assert abs(branch.taper_percent_per_mm) == pytest.approx(100 * 2 * (5 - 3) / 50 / 8, rel=0.15 + 0.07 * max(spacing))
    assert branch.diameter_min_mm == pytest.approx(6, rel=0.12)
    assert branch.diameter_max_mm == pytest.approx(10, rel=0.12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("bend", "radius"), [(30, 2.5), (40, 5.0)])
def test_a_bent_tube(tubes, spacing, bend, radius):
    angle = np.linspace(0, np.pi / 2, 300)
    points = np.stack([bend * np.sin(angle), bend * np.cos(angle), 0 * angle], 1) @ TURNED
    (branch,) = measure(tubes((points, radius), spacing=spacing), spacing)
    assert branch.length_mm == pytest.approx(bend * np.pi / 2, rel=0.05)
    assert branch.diameter_mm == pytest.approx(2 * radius, rel=0.05)
    assert branch.tortuosity == pytest.approx(np.pi / 2 / np.sqrt(2), abs=0.06)


@pytest.mark.parametrize(("spacing", "degrees"), [(SPACINGS[0], 6), (SPACINGS[1], 7), (SPACINGS[2], 12)])
@pytest.mark.parametrize("turn", [np.eye(3), TURNED * np.sign(TURNED[0, 0])])
def test_a_fork(tubes, spacing, degrees, turn):
    angles = np.radians((35, 50))
    ends = [35 * np.array([-np.cos(a), sign * np.sin(a), 0]) for a, sign in zip(angles, (1, -1), strict=True)]
    origin = np.zeros(3)
    mask = tubes(
        (line((60, 0, 0), origin) @ turn, 5.0),
        *((line(origin, end) @ turn, radius) for end, radius in zip(ends, (3.5, 2.5), strict=True)),
        spacing=spacing,
    )
    branches = measure(mask, spacing)
    assert len(branches) == 3 and branches.summary["ends"] == 2 and branches.summary["deepest_generation"] == 1
    trunk, wide, thin = sorted(branches, key=lambda branch: -branch.diameter_mm)
    assert (trunk.generation, trunk.children) == (0, tuple(sorted((wide.number, thin.number))))
    for branch, radius in ((trunk, 5.0), (wide, 3.5), (thin, 2.5)):
        assert branch.diameter_mm == pytest.approx(2 * radius, rel=0.07)
    for branch, angle in ((wide, 35), (thin, 50)):
        assert branch.angle_deg == pytest.approx(angle, abs=degrees) and branch.parent == trunk.number
    # where thinning forks, it does a little above or below: what one branch gains, another loses
    assert trunk.length_mm + wide.length_mm == pytest.approx(95, rel=0.05)
    assert branches.summary["total_length_mm"] == pytest.approx(130, rel=0.06)


def test_what_is_said_of_the_whole(fork):
    mask = fork()
    mask[2, 2, 2:7] = 1  # a piece beside
    branches = measure(mask, (2.5, 0.8, 0.6))
    whole = branches.summary
    assert whole["volume_ml"] == pytest.approx(np.count_nonzero(mask) * 2.5 * 0.8 * 0.6 / 1000)
    assert (whole["branches"], whole["ends"], whole["pieces"]) == (3, 2, 2)
    assert whole["outside_largest_piece_percent"] == pytest.approx(100 * 5 / np.count_nonzero(mask))
    groups = whole["by_generation"]
    assert [groups[key]["branches"] for key in groups] == [1, 2]
    assert sum(group["length_mm"] for group in groups.values()) == pytest.approx(whole["total_length_mm"])
    children = [branch for branch in branches if branch.generation == 1]
    assert groups["1"]["diameter_mm"] == pytest.approx(np.mean([branch.diameter_mm for branch in children]))


@pytest.mark.parametrize("way", ["RAS", "RAI", "LAS", "SLP", "PSR"])
def test_a_tree_stored_along_other_axes_gives_the_same(fork, write_mask, tmp_path, way):
    write_mask(tmp_path / "a.nii.gz", fork())
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    turned = sitk.DICOMOrient(image, way)
    first, other = measure(image), measure(turned)
    assert other.summary == {**first.summary, "orientation": way}
    for one, two in zip(first, other, strict=True):
        for name, value in asdict(one).items():
            assert getattr(two, name) == pytest.approx(value, nan_ok=True), name


def test_places_are_those_of_the_patient(fork, write_mask, tmp_path):
    write_mask(tmp_path / "a.nii.gz", fork())
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    (trunk,) = (branch for branch in measure(image) if branch.generation == 0)
    top = np.array(image.TransformIndexToPhysicalPoint((30, 19, 49))) * (-1, -1, 1)
    assert np.linalg.norm(np.array(trunk.start_mm) - top) < 2.6


def test_nothing_gives_nothing():
    branches = measure(np.zeros((5, 6, 7), bool), (1, 1, 1))
    assert branches == [] and branches.summary["volume_ml"] == 0 and branches.summary["deepest_generation"] is None


def test_what_cannot_be_measured_is_said():
    mask = np.ones((4, 4, 4))
    for arguments, words in (
        ((mask,), "needs spacing"),
        ((mask[0], (1, 1, 1)), "three axes"),
        ((mask, (1, 1)), "spacing"),
        ((mask, (1, 0, 1)), "spacing"),
        ((sitk.GetImageFromArray(mask), (1, 1, 1)), "leave out spacing"),
        ((sitk.Image([4, 4], sitk.sitkUInt8),), "three axes"),
    ):
        with pytest.raises(ValueError, match=words):
            measure(*arguments)


def test_a_dataframe_has_a_row_for_each_branch(fork):
    pandas = pytest.importorskip("pandas")
    frame = measure(fork(), (2.5, 0.8, 0.6)).to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and sorted(frame.branch) == [1, 2, 3]
    assert frame.loc[frame.generation == 1, "length_mm"].between(10, 60).all()


def test_importing_the_package_imports_nothing_of_it():
    code = "import sys, nnunetv2_airway; sys.exit(bool({'numpy', 'torch', 'importlib.metadata'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-S", "-c", code], cwd=".", check=False).returncode == 0


@pytest.mark.parametrize("name", ["phantom_lumen", "phantom_lumen_iso_05"])
def test_tubes_in_a_real_scan_whose_true_diameters_are_known(real, name):
    """COPDGene's phantom; its lumen masks hold only what is air throughout, see documentation/how_to_measure.md."""
    image = sitk.ReadImage(str(real / "phantom_scan" / f"{name}.nii.gz"))
    rows = (real / "phantom_scan" / "COPDGene_Phantom_Measurements.csv").read_text().split()[1:]
    truth = [tuple(map(float, row.split(",")))[1::2] for row in rows]  # inner diameter and length, by tube
    pieces = cc3d.connected_components(sitk.GetArrayFromImage(image), connectivity=26)
    boxes = [(number, box) for number, box in enumerate(find_objects(pieces), start=1)]
    large = [pieces[box] == number for number, box in boxes if np.count_nonzero(pieces[box] == number) > 30]
    errors: dict[float, list[float]] = {}
    for mask, (diameter, length) in zip(large, truth, strict=True):
        branch = max(measure(mask, image.GetSpacing()[::-1]), key=lambda branch: branch.length_mm)
        errors.setdefault(diameter, []).append(branch.diameter_corrected_mm / diameter - 1)
        assert branch.length_mm == pytest.approx(length, rel=0.17)
    assert {diameter: abs(np.mean(each)) < 0.1 for diameter, each in errors.items()} == {6: True, 3: True, 2.5: True}


@pytest.mark.slow
def test_a_real_tree_has_the_diameters_of_the_literature(real):
    """Weibel 1963, generations 0 to 4: 18, 12.2, 8.3, 5.6, 4.5 mm; Chaste's subject 2: 13.7, 12.7, 10.3, 6.4, 4.1."""
    image = sitk.ReadImage(str(real / "trees" / "imalife.nii.gz"))
    measured = measure_image(sitk.BinaryThreshold(image, 0.5001, 2.0, 1, 0))
    groups = measured.branches.summary["by_generation"]
    for generation, (least, most) in enumerate(((12, 22), (9, 17), (6.5, 13), (4, 8), (2.8, 6))):
        assert least < groups[str(generation)]["diameter_mm"] < most


def test_generations_that_may_be_wrong_are_pointed_out(tubes):
    spacing = (1.0, 1.0, 1.0)
    trunk = (line((190, 0, 0), (0, 0, 0)), 6.0)
    sides = [(line((0, 0, 0), (-25, sign * 20, 0)), 4.0) for sign in (1, -1)]
    (long,) = measure(tubes(trunk, *sides, spacing=spacing), spacing).summary["doubts"]
    assert long.startswith("the trachea is 1") and long.endswith(" mm long")
    short = (line((60, 0, 0), (0, 0, 0)), 6.0)
    assert measure(tubes(short, *sides, spacing=spacing), spacing).summary["doubts"] == []
    third = (line((0, 0, 0), (-5, 0, 30)), 4.0)
    doubts = measure(tubes(short, *sides, third, spacing=spacing), spacing).summary["doubts"]
    assert doubts == ["the trachea has 3 children, not 2"]
    wide = [(line((0, 0, 0), (-35, sign * 28, 0)), radius) for sign, radius in ((1, 6.6), (-1, 3.0))]
    doubts = measure(tubes(short, *wide, spacing=spacing), spacing).summary["doubts"]
    (said,) = doubts
    assert re.fullmatch(r"a branch of generation 1 is 13\.\d mm wide, the trachea 1[12]\.\d mm", said)


def test_a_path_is_no_mask():
    with pytest.raises(ValueError, match=r"got the path a.nii.gz: measure\(SimpleITK.ReadImage\('a.nii.gz'\)\)"):
        measure("a.nii.gz")
