import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.conversion.lungs import air_around, find_lungs, lung_box
from nnunetv2_airway.io.images import Grid
from nnunetv2_airway.phantom import model
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize
from nnunetv2_airway.tree.components import bounding_box

SPACING = (3.0, 2.3, 2.1)
GRID = Grid(SPACING[::-1], (-195.0, -130.0, -300.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def apart(box, lungs: np.ndarray) -> float:
    """How far a box's faces lie from those of the lungs' box at most, in mm."""
    truth = bounding_box(lungs)
    return max(
        max(abs(a.start - b.start), abs(a.stop - b.stop)) * step for a, b, step in zip(box, truth, SPACING, strict=True)
    )


@pytest.mark.parametrize(
    "traps",
    [
        (),
        ("bowel gas",),
        ("table",),
        ("arms",),
        ("head",),
        ("emphysema",),
        ("white lung",),
        ("air at the floor",),
        ("bowel gas", "table", "arms", "head", "consolidated base"),
        ("emphysema", "bowel gas", "table", "arms", "head", "air at the floor"),
    ],
    ids=" ".join,
)
def test_the_lungs_are_found_in_spite_of(traps, chest):
    hu, lungs = chest(*traps)
    # the part that a consolidation hides from view is less than the margin around the box
    assert apart(lung_box(GRID.image(hu))[0], lungs) <= (8 if "consolidated base" in traps else 4.5)


def test_lungs_that_the_field_of_view_cuts_reach_to_its_edge(chest):
    hu, lungs = chest("field of view", "table", "arms")
    (planes, rows, columns), _ = lung_box(GRID.image(hu))
    truth = bounding_box(lungs)
    assert apart((planes, rows, truth[2]), lungs) <= 4.5
    assert columns.start * 2.1 - 195 == pytest.approx(-128, abs=2.2)
    assert columns.stop * 2.1 - 195 == pytest.approx(128, abs=2.2)


@pytest.mark.parametrize("turned", ["RAI", "ASL", "LIP"])
def test_the_box_is_the_same_in_every_orientation(turned, chest):
    upright = GRID.image(chest("table", "bowel gas", "white lung")[0])
    image = sitk.DICOMOrient(upright, turned)
    box, _ = lung_box(image)
    inside = np.zeros(image.GetSize()[::-1], np.uint8)
    inside[box] = 1
    back = sitk.DICOMOrient(Grid.of(image).image(inside), "LPS")
    found, expected = bounding_box(sitk.GetArrayFromImage(back) > 0), lung_box(upright)[0]
    assert [(span.start, span.stop) for span in found] == [(span.start, span.stop) for span in expected]


def test_steps_that_differ_along_the_axes_and_sizes_that_they_do_not_divide(chest):
    hu, lungs = chest("table")
    fine = Grid((0.7, 1.15, 1.0), GRID.origin, GRID.direction)  # 3, 2 and 2 voxels are averaged
    stretched = hu.repeat(3, 0).repeat(2, 1).repeat(3, 2)[:-2, :-1, :-2]
    box, _ = lung_box(fine.image(stretched))
    for found, true, factor in zip(box, bounding_box(lungs), (3, 2, 3), strict=True):
        assert abs(found.start - factor * true.start) <= factor + 2
        assert abs(found.stop - factor * true.stop) <= factor + 2


def test_lungs_that_leave_the_volume_are_held_to_its_last_plane(chest):
    hu, _ = chest("table")
    cut = hu[:70].repeat(3, 0)[:-2]
    box, _ = lung_box(Grid((2.1, 2.3, 1.0), GRID.origin, GRID.direction).image(cut))
    assert box[0].stop == len(cut) == 208


def test_where_there_are_no_lungs_none_are_found(chest):
    hu, _ = chest("bowel gas", "table", "arms")
    assert find_lungs(hu[:22], SPACING) is None  # the belly alone
    assert find_lungs(np.full((20, 30, 40), 40, np.int16), SPACING) is None
    assert find_lungs(np.full((20, 30, 40), -1000, np.int16), SPACING) is None
    assert find_lungs(np.full((20, 30, 40), -1024, np.int16), SPACING) is None
    assert find_lungs(np.zeros((1, 1, 1), np.int16), SPACING) is None
    assert lung_box(GRID.image(np.zeros((3, 2, 1), np.int16))) is None


@pytest.mark.parametrize(
    ("shape", "spacing"), [((112, 96, 112), (1.0, 1.0, 1.0)), ((50, 140, 130), (5.0, 1.9, 2.2))], ids=["small", "thick"]
)
def test_bodies_of_any_size_and_slices_of_any_thickness(shape, spacing, monkeypatch):
    drawn = []
    render = model._render

    def spy(scene, grid, options, rng):
        drawn.append((scene.lungs, grid.factors))
        return render(scene, grid, options, rng)

    monkeypatch.setattr(model, "_render", spy)
    hu, _ = synthesize(PhantomOptions(shape=shape, spacing=spacing), 1)
    (lungs, factors), *_ = drawn
    grid = Grid(spacing[::-1], (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    for found, true, factor, step in zip(
        lung_box(grid.image(hu))[0], bounding_box(lungs), factors, spacing, strict=True
    ):
        assert found.start == pytest.approx(true.start / factor, abs=max(1, 3 / step))
        assert found.stop == pytest.approx(true.stop / factor, abs=max(1, 3 / step))


@pytest.mark.parametrize("traps", [(), ("table", "arms"), ("field of view",), ("bowel gas", "emphysema")], ids=" ".join)
def test_air_around_is_told_from_air_within(traps, chest):
    hu, lungs = chest(*traps)
    around = air_around(hu, SPACING)
    assert (around & lungs & (hu > -1024)).sum() < 1e-4 * lungs.sum()
    corners = around[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.mean() > 0.9


def test_noise_below_the_least_hu_stays_within():
    rng = np.random.default_rng(0)
    inside = np.zeros((4, 40, 50), bool)
    inside[:, 8:32, 8:42] = True
    lumen = np.zeros_like(inside)
    lumen[:, 15:25, 20:30] = True
    hu = np.where(inside & ~lumen, 40, -1000) + rng.normal(0, 35, inside.shape)
    around = air_around(np.maximum(hu, -1024), SPACING)
    assert not (around & inside).any() and around[~inside].mean() > 0.99
