import numpy as np
import pytest

from nnunetv2_airway.phantom.scan import FAR, average_blocks, coverage, draw_cones, mix, scan

SPACING = np.array([2.0, 1.0, 0.5])


def test_distance_to_a_sphere_at_anisotropic_spacing():
    field = np.full((20, 30, 50), FAR)
    centre = np.array([19.0, 14.5, 12.2])
    draw_cones(field, np.array([[*centre, *centre, 4, 4]]), SPACING, 2.0)
    positions = np.stack(
        np.meshgrid(*[np.arange(n) * s for n, s in zip(field.shape, SPACING, strict=True)], indexing="ij"), -1
    )
    exact = np.linalg.norm(positions - centre, axis=-1) - 4
    near = exact < 2
    np.testing.assert_allclose(field[near], exact[near], atol=1e-4)
    assert (field[~near] >= 2 - 1e-4).all()


def test_a_cone_tapers_and_cones_join():
    field = np.full((40, 21, 41), FAR)
    cones = np.array([[10, 10, 10, 40, 10, 10, 4, 2], [40, 10, 10, 70, 10, 10, 2, 1.0]])
    draw_cones(field, cones, SPACING, 1.0)
    for plane, radius in ((5, 4), (10, 4 - 2 / 3), (20, 2), (35, 1)):
        # distance to the surface at the axis is minus the local radius (cone slopes are slight)
        assert field[plane, 10, 20] == pytest.approx(-radius, abs=1e-5)


def test_cones_outside_the_volume_are_harmless():
    field = np.full((5, 5, 5), FAR)
    draw_cones(field, np.array([[100, 100, 100, 120, 100, 100, 3, 3.0]]), SPACING, 1)
    assert (field == FAR).all()


def test_coverage_conserves_volume():
    field = np.full((40, 40, 40), FAR)
    draw_cones(field, np.array([[19.6, 19.3, 20.2, 19.6, 19.3, 20.2, 8, 8]]), np.ones(3), 2.0)
    assert coverage(field, 1.0).sum() == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.01)


def test_mixing_is_linear_in_the_share():
    hu = np.array([-800.0, -800, -800], np.float32)
    mix(hu, np.array([0, 0.25, 1], np.float32), 0)
    assert hu.tolist() == [-800, -600, 0]


def test_thick_slices_see_the_mean_of_thin_ones():
    thin = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    assert np.array_equal(average_blocks(thin, (2, 1, 1)), [thin[:2].mean(0), thin[2:].mean(0)])
    assert average_blocks(thin, (1, 1, 1)) is thin


def test_noise_blur_and_type():
    rng = np.random.default_rng(0)
    flat = scan(np.full((30, 30, 30), -500, np.float32), SPACING, blur=0, noise=40, rng=rng)
    assert flat.dtype == np.int16 and flat.std() == pytest.approx(40, rel=0.02)
    assert flat.mean() == pytest.approx(-500, abs=3)
    point = np.full((21, 41, 81), -1000, np.float32)
    point[10, 20, 40] = 1e6
    blurred = scan(point, SPACING, blur=2.0, noise=0, rng=rng).astype(float) + 1000
    width = [
        np.sqrt(
            np.average(
                (np.arange(n) * s - n // 2 * s) ** 2, weights=blurred.sum(tuple(a for a in range(3) if a != axis))
            )
        )
        for axis, (n, s) in enumerate(zip(blurred.shape, SPACING, strict=True))
    ]
    assert width == pytest.approx([2, 2, 2], rel=0.1)
    assert scan(np.array([[[-5000.0, 9000.0]]]), SPACING, blur=0, noise=0, rng=rng).tolist() == [[[-1024, 3071]]]
