import numpy as np
import pytest
import trimesh

from nnunetv2_airway.tree.surface import surface

SPACING = (2.5, 0.8, 0.6)


def in_mm(vertices, triangles) -> trimesh.Trimesh:
    return trimesh.Trimesh((vertices * SPACING)[:, ::-1], triangles, process=False)


@pytest.mark.parametrize("most", [None, 600])
def test_a_ball_at_anisotropic_spacing_keeps_place_volume_and_outside(most):
    places = np.indices((20, 50, 60)).reshape(3, -1).T
    centre, radius = np.array((9, 24, 29)), 12.0
    mask = (np.linalg.norm((places - centre) * SPACING, axis=1) <= radius).reshape(20, 50, 60)
    mesh = in_mm(*surface(mask, SPACING, max_triangles=most))
    assert mesh.is_watertight or len(mesh.faces) <= most
    assert mesh.volume == pytest.approx(mask.sum() * np.prod(SPACING), rel=0.03)
    assert mesh.centroid == pytest.approx((centre * SPACING)[::-1], abs=0.3)
    distance = np.linalg.norm(mesh.vertices - (centre * SPACING)[::-1], axis=1)
    assert distance.min() > radius - 2.5 and distance.max() < radius + 1.3
    outwards = ((mesh.triangles_center - mesh.centroid) * mesh.face_normals).sum(1)
    assert (outwards > 0).mean() > 0.99


def test_an_airway_one_voxel_thin_stays_whole_and_one_cut_by_the_volume_is_closed():
    mask = np.zeros((30, 9, 9), bool)
    mask[5:, 4, 4] = True
    mesh = in_mm(*surface(mask, (1, 1, 1)))
    assert mesh.is_watertight and len(mesh.split()) == 1
    vertices, _ = surface(mask, (1, 1, 1))
    assert vertices[:, 0].min() == pytest.approx(4.8, abs=0.35) and vertices[:, 0].max() == pytest.approx(
        29.2, abs=0.35
    )


@pytest.mark.parametrize(("width", "kept"), [(1, 0.4), (2, 0.85), (3, 0.94)])
@pytest.mark.parametrize("slope", [0, 1])
def test_how_much_of_a_thin_bronchus_is_left(width, kept, slope):
    mask = np.zeros((60, 60, 12), bool)
    for step in range(45):
        mask[5 + step : 5 + step + width, (across := 5 + slope * step) : across + width, 4 : 4 + width] = True
    volume = trimesh.Trimesh(*surface(mask, (1, 1, 1)), process=False).volume
    assert abs(volume) / mask.sum() == pytest.approx(kept, abs=0.06)


def test_an_empty_mask_has_no_surface():
    vertices, triangles = surface(np.zeros((4, 5, 6)), (1, 1, 1))
    assert vertices.shape == (0, 3) and triangles.shape == (0, 3)
