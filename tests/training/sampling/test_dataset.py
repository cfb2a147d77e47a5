from types import SimpleNamespace

import numpy as np
import pytest
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunetv2_airway.training.maps.store import CaseMap, LineMaps, Stored
from nnunetv2_airway.training.sampling.dataset import MappedDataset, WithMaps
from nnunetv2_airway.training.schedule import RANDOM

CT = np.random.default_rng(0).normal(-800, 100, (1, 9, 10, 11)).astype(np.float32)
LABEL = np.random.default_rng(2).integers(-1, 3, CT.shape).astype(np.int8)
CLOSENESS = np.random.default_rng(1).integers(0, 256, CT.shape[1:]).astype(np.uint8)
CLOSENESS[2, 3, 4] = 255


@pytest.mark.parametrize("box", [[[1, 5], [2, 9], [0, 11]], [[-3, 4], [5, 14], [-2, 13]]])
def test_nnunet_s_cropping_sees_two_channels(box):
    both = WithMaps(Stored(LABEL, "damaged"), [CLOSENESS])
    expected = crop_and_pad_nd(np.concatenate((LABEL, CLOSENESS[None].astype(np.int16))), box, -1)
    assert both.shape == (2, 9, 10, 11)
    found = crop_and_pad_nd(both, box, -1, cast_cropped_to=np.int16)
    assert found.dtype == np.int16 and np.array_equal(found, expected)


def test_only_whole_channels():
    with pytest.raises(IndexError, match="whole channels"):
        WithMaps(Stored(LABEL, "damaged"), [CLOSENESS])[(slice(0, 1), slice(None), slice(None), slice(None))]


def test_a_case_brings_its_voxels_by_kind_and_leaves_nnunet_s_properties_alone():
    line = np.array([[1, 2, 3], [4, 5, 6]])
    original = {"class_locations": {1: np.zeros((1, 4))}, "spacing": (1, 1, 1)}
    dataset = SimpleNamespace(identifiers=["a"], load_case=lambda case: (CT, LABEL, None, original))
    maps = {
        "centerline": SimpleNamespace(read=lambda case: CaseMap(CLOSENESS, {"centerline": line, "small": line[:1]}))
    }
    hard = np.array([[4, 5, 6]])
    wrapped = MappedDataset(dataset, maps, RANDOM, {"a": hard})
    data, label, previous, properties = wrapped.load_case("a")
    assert wrapped.identifiers == ["a"] and data.array is CT and label.shape == (2, 9, 10, 11) and previous is None
    locations = properties["class_locations"]
    assert np.array_equal(locations["hard"], hard) and np.array_equal(locations["small"], line[:1])
    assert np.array_equal(locations["centerline"], line) and 1 in locations
    assert set(original["class_locations"]) == {1}
    assert len(MappedDataset(dataset, maps, RANDOM).load_case("a")[3]["class_locations"]["hard"]) == 0


def test_maps_that_are_not_there_are_zero_and_the_line_is_what_is_closest():
    dataset = SimpleNamespace(identifiers=["a"], load_case=lambda case: (CT, LABEL, None, {"class_locations": {}}))
    centerline = SimpleNamespace(read=lambda case: CaseMap(CLOSENESS, {}))
    maps = {"centerline": centerline, "line": LineMaps(centerline), "missed": None}
    _, label, _, _ = MappedDataset(dataset, maps, RANDOM).load_case("a")
    assert label.shape == (4, 9, 10, 11)
    found = label[:, 1:4, :, 2:5]
    assert np.array_equal(found[0], LABEL[0, 1:4, :, 2:5]) and np.array_equal(found[1], CLOSENESS[1:4, :, 2:5])
    assert np.array_equal(found[2], CLOSENESS[1:4, :, 2:5] == 255) and found[2].any() and not found[3].any()


@pytest.mark.parametrize("index", [0, 1], ids=["CT", "label"])
def test_a_case_whose_voxels_cannot_be_unpacked_is_named(tmp_path, index):
    smooth = np.indices((20, 30, 40)).sum(0)[None]
    case = (smooth.astype(np.float32), smooth.astype(np.int8), {"class_locations": {}})
    nnUNetDatasetBlosc2.save_case(*case, str(tmp_path / "a"), chunks=smooth.shape, blocks=smooth.shape)
    file = tmp_path / ("a.b2nd", "a_seg.b2nd")[index]
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[: middle - 99] + b"\xff" * 198 + content[middle + 99 :])
    arrays = MappedDataset(nnUNetDatasetBlosc2(str(tmp_path)), {}, RANDOM).load_case("a")
    assert arrays[1 - index][:, 2:4].shape == (1, 2, 30, 40)
    with pytest.raises(RuntimeError, match="CT or label of case a is damaged"):
        arrays[index][:, 2:4]
