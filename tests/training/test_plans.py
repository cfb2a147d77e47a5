import pytest

from nnunetv2_airway.training.plans import check_binary, fit_patch_size, fit_patches

EIGHT = (8, 8, 8)
DATASET = {"labels": {"background": 0, "airway": 1}, "channel_names": {"0": "noNorm"}}


def fit_plans(plans, configuration, dataset, **options):
    """As the airway trainer does, for a network that halves each axis three times."""
    check_binary(plans, configuration, dataset, trainer="T")
    return fit_patches(plans, configuration, **options, divisor_of=lambda configuration: EIGHT, trainer="T")[0]


def plans(**configuration) -> dict:
    full = {
        "patch_size": [160, 96, 160],
        "batch_size": 2,
        "median_image_size_in_voxels": [300, 400, 410],
        "architecture": {},
        **configuration,
    }
    return {
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": full, "child": {"inherits_from": "3d_fullres"}},
    }


@pytest.mark.parametrize(
    ("image", "expected"),
    [((300, 400, 410), [128, 128, 128]), ((90.5, 400, 130), [88, 128, 128]), ((8, 15, 127), [8, 8, 120])],
)
def test_each_axis_is_the_largest_multiple_of_eight_that_fits(image, expected):
    assert fit_patch_size((128, 128, 128), image, EIGHT) == expected


def test_images_thinner_than_eight_voxels_are_refused():
    with pytest.raises(ValueError, match=r"at least \(8, 8, 8\) voxels.*\(7, 400, 410\)"):
        fit_patch_size((128, 128, 128), (7, 400, 410), EIGHT)


@pytest.mark.parametrize("patch", [(100, 128, 128), (128, 128), (0, 8, 8)])
def test_patches_not_divisible_by_eight_are_refused(patch):
    with pytest.raises(ValueError, match="plans_patch_size"):
        fit_patch_size(patch, (300, 400, 410), EIGHT)


@pytest.mark.parametrize("configuration", ["3d_fullres", "child"])
def test_patch_and_batch_size_are_written_into_a_copy(configuration):
    original = plans(median_image_size_in_voxels=[60, 400, 410])
    fitted = fit_plans(original, configuration, DATASET, patch_size=(128, 128, 128), batch_size=32)
    written = fitted["configurations"][configuration]
    assert written["patch_size"] == [56, 128, 128] and written["batch_size"] == 32
    assert original["configurations"]["3d_fullres"]["patch_size"] == [160, 96, 160]


@pytest.mark.parametrize(
    ("configuration", "dataset", "message"),
    [
        (dict(patch_size=[512, 512], median_image_size_in_voxels=[500, 500]), DATASET, "use 3d_fullres"),
        (dict(previous_stage="3d_lowres"), DATASET, "cascade 3d_fullres: use 3d_fullres"),
        ({}, {"labels": {"background": 0, "airway": 1, "wall": 2}}, "2 foreground labels.*Merge them"),
        (
            {},
            {"labels": {"background": 0, "lumen": 1, "airway": [1, 2]}, "regions_class_order": [1, 2]},
            "2 foreground regions",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_at_the_start(configuration, dataset, message):
    with pytest.raises(NotImplementedError, match=message):
        fit_plans(plans(**configuration), "3d_fullres", dataset, patch_size=(128, 128, 128), batch_size=32)


def test_one_region_is_accepted():
    dataset = {"labels": {"background": 0, "airway": [1, 2]}, "regions_class_order": [1]}
    fitted = fit_plans(plans(), "3d_fullres", dataset, patch_size=(64, 64, 64), batch_size=4)
    assert fitted["configurations"]["3d_fullres"]["patch_size"] == [64, 64, 64]
