from dataclasses import replace

import cc3d
import numpy as np
import pytest
from scipy import ndimage

from nnunetv2_airway.phantom.model import PhantomOptions, synthesize, synthesize_around
from nnunetv2_airway.tree.centerline import centerline

OPTIONS = PhantomOptions(shape=(128, 112, 120), spacing=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def phantom():
    return synthesize(OPTIONS)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_shapes_types_and_one_piece(phantom):
    ct, airway = phantom
    assert ct.shape == airway.shape == OPTIONS.shape
    assert ct.dtype == np.int16 and airway.dtype == np.uint8
    assert cc3d.connected_components(airway, connectivity=6).max() == 1


def test_from_trachea_to_bronchi_below_two_voxels(phantom):
    airway = np.pad(phantom[1], 1, mode="edge")  # the trachea goes on above the volume
    radii = ndimage.distance_transform_edt(airway)[centerline(airway)]
    assert radii.max() > 3
    assert (radii < 2).mean() > 0.5
    assert airway[-1].any()  # cut by the field of view at the head


def test_air_inside_and_a_wall_around(phantom):
    ct, airway = phantom
    deep = ndimage.binary_erosion(airway, iterations=2)
    assert -1010 < np.median(ct[deep]) < -960
    large = ndimage.binary_opening(airway, iterations=2)
    ring = ndimage.binary_dilation(large, iterations=2) & ~ndimage.binary_dilation(airway)
    assert np.median(ct[ring]) > -700


def test_a_plain_threshold_leaks_or_misses_badly(phantom):
    ct, airway = phantom
    below = ct < -950
    assert dice(below, airway > 0) < 0.1
    pieces = cc3d.connected_components(below, connectivity=6)
    from_trachea = pieces == np.bincount(pieces[(airway > 0) & below])[1:].argmax() + 1
    line = centerline(airway)
    assert from_trachea[line].mean() < 0.6 or dice(from_trachea, airway > 0) < 0.6


def test_the_same_seed_gives_the_same_voxels_and_another_index_another_patient(phantom):
    again = synthesize(OPTIONS)
    assert all(np.array_equal(a, b) for a, b in zip(phantom, again, strict=True))
    assert not np.array_equal(phantom[1], synthesize(OPTIONS, 1)[1])


def test_thick_slices():
    thin = PhantomOptions(shape=(96, 64, 72), spacing=(1.0, 1.5, 1.5))
    thick = PhantomOptions(shape=(32, 64, 72), spacing=(3.0, 1.5, 1.5))
    ct, airway = synthesize(thick)
    assert ct.shape == (32, 64, 72)
    # the same anatomy in mm
    volumes = [a.sum() * np.prod(o.spacing) for o, a in ((thin, synthesize(thin)[1]), (thick, airway))]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.25)


@pytest.mark.parametrize("generations", [1, 2])
def test_generations_and_noise_can_be_chosen(generations):
    few = synthesize(PhantomOptions(shape=(96, 96, 96), generations=generations, noise=0))
    many = synthesize(PhantomOptions(shape=(96, 96, 96), noise=60))
    assert centerline(few[1]).sum() < centerline(many[1]).sum()
    outside = (slice(0, 20), slice(0, 3), slice(0, 3))
    assert few[0][outside].std() < 1 and many[0][outside].std() > 20


def test_around_a_given_mask():
    mask = synthesize(PhantomOptions(shape=(96, 80, 88), spacing=(1.0, 1.2, 1.2)), 5)[1]
    ct = synthesize_around(mask, PhantomOptions(shape=mask.shape, spacing=(1.0, 1.2, 1.2)))
    assert ct.shape == mask.shape and ct.dtype == np.int16
    deep = ndimage.binary_erosion(mask, iterations=2)
    assert -1010 < np.median(ct[deep]) < -950
    assert np.median(ct[mask > 0]) < -900
    ring = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_dilation(mask)
    assert np.median(ct[ring]) > np.median(ct[deep]) + 100
    assert (ct > 200).any() and np.median(ct[:, :2]) < -950


@pytest.mark.parametrize("position", [(2, 3, 4), (20, 16, 12)])
def test_around_a_lone_voxel(position):
    mask = np.zeros((40, 36, 32), np.uint8)
    mask[position] = 1
    ct = synthesize_around(mask, PhantomOptions(shape=mask.shape, spacing=(2.0, 1.0, 1.0)))
    assert ct.shape == mask.shape


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        synthesize_around(np.zeros((32, 32, 32)), PhantomOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(shape=(31, 64, 64)), "--shape"),
        (dict(spacing=(0, 1, 1)), "--spacing"),
        (dict(generations=0), "--generations"),
        (dict(noise=-1), "--noise"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        PhantomOptions(**options)


@pytest.mark.parametrize("margin", [0.0, 7.0])
def test_outside_the_lungs_box_a_ct_can_be_0(margin):
    options = PhantomOptions(shape=(48, 90, 80), spacing=(2.5, 1.0, 1.2))
    whole, airway = synthesize(options)
    ct, same = synthesize(replace(options, lung_box=margin))
    assert np.array_equal(airway, same)
    box = ndimage.find_objects((ct != 0).astype(np.uint8))[0]
    assert np.array_equal(ct[box], whole[box]) and np.count_nonzero(ct) <= ct[box].size
    assert (np.argwhere(airway).min(0) >= [axis.start for axis in box]).all()
    assert (np.argwhere(airway).max(0) < [axis.stop for axis in box]).all()
    assert box[0].stop == 48  # the trachea leaves the volume at the head
    # the table lies outside; of the lungs, everything inside: dark parenchyma that the body surrounds
    labels = cc3d.connected_components(ndimage.binary_opening(whole < -600, iterations=2), connectivity=6)
    outside = np.unique(labels[:, [0, -1]])
    lungs = (labels > 0) & ~np.isin(labels, outside)
    assert lungs.sum() > 5000
    rows = np.flatnonzero(lungs.any((0, 2)))
    columns = np.flatnonzero(lungs.any((0, 1)))
    for axis, found in ((1, rows), (2, columns)):
        gap = margin / options.spacing[axis]
        assert abs(box[axis].start - (found[0] - gap)) <= 3 and abs(box[axis].stop - (found[-1] + 1 + gap)) <= 3


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="--lung-box needs a margin of at least 0 mm, got -1"):
        PhantomOptions(lung_box=-1)
