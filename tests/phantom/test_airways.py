import numpy as np
import pytest

from nnunetv2_airway.phantom.airways import artery_beside, grow_airways, veins, wall_thickness
from nnunetv2_airway.phantom.chest import Anatomy, Frame, both_lungs

ADULT = Frame(centre=np.array([140.0, 150, 180]), half=np.array([125.0, 95, 130]))
TOP = 300.0


@pytest.fixture(scope="module")
def patient():
    rng = np.random.default_rng(0)
    anatomy = Anatomy.sample(rng)
    return anatomy, list(grow_airways(ADULT, anatomy, 0.7, 12, TOP, rng))


def test_walls_of_an_adult_and_of_a_smaller_chest():
    # trachea 18 mm wide: 2 mm; segmental bronchus 5 mm: 0.85 mm
    assert wall_thickness(9.0, ADULT) == pytest.approx(2.02)
    assert wall_thickness(2.5, ADULT) == pytest.approx(0.85)
    half = Frame(ADULT.centre, ADULT.half / 2)
    assert wall_thickness(4.5, half) == pytest.approx(1.01)


def test_trachea_enters_at_the_top_and_divides_into_a_right_and_a_left_main_bronchus(patient):
    branches = patient[1]
    trachea, *rest = branches
    assert trachea.generation == 0 and trachea.path[0][0] > TOP
    mains = [branch for branch in rest if branch.generation == 1]
    assert [np.array_equal(main.path[0], trachea.path[-1]) for main in mains] == [True, True]
    assert mains[0].path[-1][2] < ADULT.centre[2] < mains[1].path[-1][2]
    assert max(main.start_radius for main in mains) < trachea.end_radius
    assert mains[0].start_radius > mains[1].start_radius  # the right one is wider


def test_small_airways_are_many_and_inside_the_lungs(patient):
    anatomy, branches = patient
    small = [branch for branch in branches if branch.generation > 4]
    ends = np.array([branch.path[-1] for branch in small])
    assert len(small) > 200
    assert both_lungs(ADULT.normalise(ends), anatomy).mean() > 0.95


def test_an_artery_runs_beside_its_bronchus_outside_the_wall(patient):
    for branch in patient[1][3:60]:
        airway, artery = branch.cones(), artery_beside(branch, ADULT)
        distance = np.linalg.norm(artery[:, :3] - airway[:, :3], axis=1)
        outer = airway[:, 6] + wall_thickness(airway[:, 6], ADULT)
        assert (distance >= 0.99 * (outer + artery[:, 6])).all()
        assert (distance <= 1.05 * (outer + artery[:, 6])).all()
        assert np.allclose(artery[:, 3:6] - artery[:, :3], airway[:, 3:6] - airway[:, :3], atol=0.3 * outer.max())


def test_veins_reach_both_lungs(patient):
    anatomy, _ = patient
    ends = veins(ADULT, anatomy, 0.7, np.random.default_rng(1))[:, 3:6]
    inside = ends[both_lungs(ADULT.normalise(ends), anatomy)]
    assert (inside[:, 2] < ADULT.centre[2]).sum() > 100 and (inside[:, 2] > ADULT.centre[2]).sum() > 100
