from types import SimpleNamespace

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_airway.hounsfield import HounsfieldScale
from nnunetv2_airway.training.check_cases import check_cases, declared_values, structure_values, why_no_air

LABEL, REGION = {"background": 0, "airway": 1}, {"background": 0, "airway": [1, 2]}


@pytest.fixture
def check(tmp_path):
    """The function that checks cases, given as (value of the label, HU in it, HU beside it)."""

    def check(cases, labels=LABEL, *, scale=HounsfieldScale(), every=True):  # noqa: B008, frozen
        manager = LabelManager(labels, [1] if labels is REGION else None)
        key = (1, 2) if labels is REGION else 1
        for name, (value, inside, outside) in cases.items():
            label = np.zeros((1, 40, 50, 60), np.int16)
            label[:, 5:30, 8:12, 30:50] = value
            data = np.where(label > 0, inside, outside).astype(np.float32)
            places = np.argwhere(np.isin(label, key))[::7]
            nnUNetDatasetBlosc2.save_case(
                (data - scale.intercept) / scale.slope, label, {"class_locations": {key: places}}, str(tmp_path / name)
            )
        trainer = SimpleNamespace(
            label_manager=manager,
            dataset_json={"labels": labels},
            preprocessed_dataset_folder=str(tmp_path),
            every_case_has_structure=every,
            doubt_about=lambda voxels: why_no_air(voxels, scale),
        )
        check_cases(trainer, nnUNetDatasetBlosc2(str(tmp_path)))

    return check


@pytest.mark.parametrize(("labels", "value"), [(LABEL, 1), (REGION, 1), (REGION, 2)])
def test_airways_that_are_air_are_trained(check, labels, value):
    check({"a": (value, -950, 40), "b": (value, -870, -850)}, labels)


def test_airways_are_looked_at_where_they_are(tmp_path):
    label, data = np.zeros((1, 90, 90, 90), np.int8), np.full((1, 90, 90, 90), -950, np.float32)
    label[:, 80:88, 81:86, 2:6], data[:, 80:88, 81:86, 2:6] = 1, 74
    nnUNetDatasetBlosc2.save_case(data, label, {"class_locations": {1: np.argwhere(label)}}, str(tmp_path / "a"))
    trainer = SimpleNamespace(
        label_manager=LabelManager(LABEL, None),
        preprocessed_dataset_folder=str(tmp_path),
        doubt_about=lambda voxels: why_no_air(voxels, HounsfieldScale()),
    )
    with pytest.raises(ValueError, match="median of 74 HU"):
        check_cases(trainer, nnUNetDatasetBlosc2(str(tmp_path)))


@pytest.mark.parametrize("scale", [HounsfieldScale(), HounsfieldScale(200.0, -800.0)])
def test_what_is_measured_is_the_preprocessed_case(check, scale):
    with pytest.raises(ValueError, match=r"^b in .*b: the labelled airways have a median of 74 HU.*0 to 4095"):
        check({"a": (1, -950, 40), "b": (1, 74, -900)}, scale=scale)


def test_labels_of_a_data_set_that_was_declared_otherwise_since(check):
    check({"a": (1, -950, 40)})
    check({"b": (2, -950, 40)}, REGION)


def test_airways_at_the_end_of_what_preprocessing_has_kept_are_no_air(check):
    """As where CTs are stored from 0 on, and plans of a data set in HU clip them."""
    scale = HounsfieldScale(100.0, -900.0, clipped_at=(-1000.0, -441.0))
    check({"a": (1, -950, -441)}, scale=scale)
    with pytest.raises(ValueError, match="have a median of at least -441 HU"):
        check({"b": (1, -441, -441)}, scale=scale)


def test_plans_that_clip_all_air_away_are_named():
    scale = HounsfieldScale(100.0, 40.0, clipped_at=(-160.0, 240.0))
    assert "clipped the CTs to [-160, 240] HU, in which no airway lies" in why_no_air(np.full(9, -2.0), scale)


@pytest.mark.parametrize("labels", [LABEL, REGION])
def test_labels_without_the_structure_are_named_with_what_they_hold(check, labels):
    with pytest.raises(ValueError, match=r"^labels of b, c .* no voxel of airway \(1.*; that of b holds 0, 255"):
        check({"a": (1, -950, 40), "b": (255, -950, 40), "c": (0, 0, 40)}, labels)


def test_other_structures_may_be_missing_in_some_cases_but_not_in_all(check):
    with pytest.raises(ValueError, match=r"labels of c, d in .* have no voxel of airway \(1\); that of c holds 0\."):
        check({"c": (0, 0, 40), "d": (0, 0, 40)}, every=False)
    check({"e": (1, -950, 40)}, every=False)


def test_damaged_cases_are_named(check, tmp_path):
    (tmp_path / "b.b2nd").write_bytes(b"no array")
    (tmp_path / "b_seg.b2nd").write_bytes(b"no array")
    with pytest.raises(RuntimeError, match=r"are damaged: delete their files .*\(b: "):
        check({"a": (1, -950, 40)})


def test_values_that_a_label_may_have():
    assert structure_values(LabelManager(LABEL, None)) == (1,)
    assert structure_values(LabelManager(REGION, [1])) == (1, 2)
    ignoring = LabelManager({"background": 0, "airway": 1, "ignore": 2}, None)
    assert sorted(declared_values(ignoring)) == [-1, 0, 1, 2]
