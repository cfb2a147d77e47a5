import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

from nnunetv2_airway.training.maps.kinds import MAPS
from nnunetv2_airway.training.maps.numbers import branch_numbers, component_numbers
from nnunetv2_airway.training.maps.store import MapStore
from nnunetv2_airway.tree.centerline import centerline, centerline_closeness, small_airway_points

SPACING = (2.5, 0.8, 0.6)


def label(seed: int) -> np.ndarray:
    """A trunk with a branch at a place of its own; case 0 has none."""
    mask = np.zeros((24, 30, 34), np.int8)
    if seed:
        mask[4:, 8 + seed : 15 + seed, 9:18] = 1
        mask[12:14, 10 + seed : 12 + seed, 17:32] = 1
    mask[:2] = -1  # outside of what nnU-Net has cropped
    return mask


def write_cases(folder: Path, names, dataset_class=nnUNetDatasetBlosc2):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        options = dict(chunks=(1, 16, 16, 16), blocks=(1, 8, 8, 8)) if dataset_class is nnUNetDatasetBlosc2 else {}
        mask = label(seed)[None]
        dataset_class.save_case(mask.astype(np.float32), mask, {"class_locations": {}}, str(folder / name), **options)
    return dataset_class(str(folder))


@pytest.fixture
def dataset(tmp_path):
    return write_cases(tmp_path / "plans_3d", ["empty", "a", "b"])


@pytest.fixture
def store(tmp_path):
    return MapStore(tmp_path / "plans_3d", SPACING, (1,), "centerline")


def check(store, name, seed):
    maps, mask = store.read(name), label(seed) == 1
    assert np.array_equal(maps.values[:], centerline_closeness(mask, SPACING)[0])
    assert np.array_equal(maps.values[3:9, 10:20, 5:30], centerline_closeness(mask, SPACING)[0][3:9, 10:20, 5:30])
    assert np.array_equal(maps.points["centerline"], np.argwhere(centerline(mask)))
    assert np.array_equal(maps.points["small"], np.argwhere(small_airway_points(mask)))


def test_round_trip_beside_the_preprocessed_cases(dataset, store, tmp_path):
    assert store.missing(["empty", "a", "b"]) == ["empty", "a", "b"]
    store.prepare(dataset, ["empty", "a", "b"], processes=2, progress=False)
    assert store.missing(["empty", "a", "b"]) == []
    for seed, name in enumerate(["empty", "a", "b"]):
        check(store, name, seed)
    assert len(store.read("a").points["small"]) > 5 and len(store.read("empty").points["centerline"]) == 0
    assert store.folder == tmp_path / "plans_3d_airway_maps"
    assert sorted(file.name for file in store.folder.iterdir()) == ["a.b2nd", "b.b2nd", "empty.b2nd"]
    assert store.read("a").values.array.chunks == (16, 16, 16)
    # nothing of ours among nnU-Net's cases
    assert sorted(nnUNetDatasetBlosc2.get_identifiers(str(tmp_path / "plans_3d"))) == ["a", "b", "empty"]


def test_only_what_is_missing_is_computed_and_nothing_is_rewritten(dataset, store):
    store.prepare(dataset, ["a"], processes=1, progress=False)
    before = store.folder.joinpath("a.b2nd").stat()
    store.prepare(dataset, ["a", "b"], processes=1, progress=False)
    after = store.folder.joinpath("a.b2nd").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    check(store, "b", 2)


def test_computed_again_when_the_case_the_spacing_or_the_labels_change(dataset, store, tmp_path):
    store.prepare(dataset, ["a", "b"], processes=1, progress=False)
    assert MapStore(store.preprocessed, (1, 1, 1), (1,), "centerline").missing(["a", "b"]) == ["a", "b"]
    assert MapStore(store.preprocessed, SPACING, (1, 2), "centerline").missing(["a", "b"]) == ["a", "b"]
    for file in store.preprocessed.glob("b*"):
        shutil.copy(file, file.with_name(file.name.replace("b", "a", 1)))  # a is now what b was
    assert store.missing(["a", "b"]) == ["a"]
    store.prepare(dataset, ["a"], processes=1, progress=False)
    check(store, "a", 2)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -10])
def test_a_damaged_file_is_computed_again_and_named_when_read(dataset, store, keep):
    store.prepare(dataset, ["a"], processes=1, progress=False)
    file = store.folder / "a.b2nd"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(RuntimeError, match=r"cannot read the map .*a\.b2nd; .*--c"):
        store.read("a")
    assert store.missing(["a"]) == ["a"]
    store.prepare(dataset, ["a"], processes=1, progress=False)
    check(store, "a", 1)


def test_a_damage_inside_a_file_is_noticed_or_named_by_who_reads_it_all_the_same(dataset, store):
    store.prepare(dataset, ["a"], processes=1, progress=False)
    file = store.folder / "a.b2nd"
    values, points = store.read("a").values[:], store.read("a").points
    content, outcomes = file.read_bytes(), set()
    for place in range(0, len(content) - 16, 16):
        file.write_bytes(
            content[:place] + bytes(byte ^ 0xFF for byte in content[place : place + 16]) + content[place + 16 :]
        )
        noticed = bool(store.missing(["a"]))
        try:
            found = store.read("a")
            same = np.array_equal(found.values[:], values)
            same &= all(np.array_equal(found.points[kind], voxels) for kind, voxels in points.items())
            assert noticed or same, place
            outcomes.add("read")
        except RuntimeError as error:
            assert noticed and "a.b2nd" in str(error) and "--c" in str(error)
            outcomes.add("named")
    assert outcomes == {"read", "named"}


def test_a_foreign_file_is_replaced(dataset, store):
    store.folder.mkdir()
    blosc2.asarray(np.zeros((4, 5, 6), np.uint8), urlpath=str(store.folder / "a.b2nd"))
    assert store.missing(["a"]) == ["a"]
    store.prepare(dataset, ["a"], processes=1, progress=False)
    check(store, "a", 1)


def test_a_region_of_several_labels_is_one_airway(dataset, tmp_path):
    both = MapStore(tmp_path / "plans_3d", SPACING, (1, -1), "centerline")
    both.prepare(dataset, ["a"], processes=1, progress=False)
    assert np.array_equal(both.read("a").points["centerline"], np.argwhere(centerline(label(1) != 0)))


def test_preprocessed_data_in_nnunet_s_older_format(tmp_path):
    dataset = write_cases(tmp_path / "old", ["empty", "a"], nnUNetDatasetNumpy)
    store = MapStore(tmp_path / "old", SPACING, (1,), "centerline")
    store.prepare(dataset, store.missing(["empty", "a"]), processes=1, progress=False)
    check(store, "a", 1)


@pytest.mark.parametrize("name", ["components", "branches"])
def test_numbers_have_a_folder_of_their_own(dataset, tmp_path, name):
    stores = [MapStore(tmp_path / "plans_3d", SPACING, (1,), kind) for kind in ("centerline", name)]
    for store in stores:
        store.prepare(dataset, store.missing(["empty", "a"]), processes=2, progress=False)
    assert [store.missing(["empty", "a"]) for store in stores] == [[], []]
    mask = label(1) == 1
    expected = component_numbers(mask) if name == "components" else branch_numbers(mask, SPACING)
    found = stores[1].read("a")
    assert np.array_equal(found.values[:], expected) and expected.max() > 0 and not found.points
    assert stores[1].folder == tmp_path / f"plans_3d_{MAPS[name].folder}" != stores[0].folder
    check(stores[0], "a", 1)


def test_an_error_names_the_case(dataset, store):
    (store.preprocessed / "b_seg.b2nd").write_bytes(b"no label")
    with pytest.raises(RuntimeError, match="airway maps of case b could not be computed"):
        store.prepare(dataset, ["a", "b"], processes=1, progress=False)
    assert store.missing(["empty", "a", "b"])[-1] == "b"
    (store.preprocessed / "b_seg.b2nd").unlink()
    with pytest.raises(FileNotFoundError, match="case b has no preprocessed label"):
        store.missing(["b"])


def prepare_all(folder: Path) -> None:
    store = MapStore(folder, SPACING, (1,), "centerline")
    dataset = nnUNetDatasetBlosc2(str(folder))
    store.prepare(dataset, store.missing(dataset.identifiers), processes=2, progress=False)


def test_two_folds_started_together(tmp_path):
    names = ["empty", "a", "b", "c", "d"]
    write_cases(tmp_path / "plans_3d", names)
    folds = [subprocess.Popen([sys.executable, __file__, str(tmp_path / "plans_3d")]) for _ in range(2)]
    assert [fold.wait(timeout=120) for fold in folds] == [0, 0]
    store = MapStore(tmp_path / "plans_3d", SPACING, (1,), "centerline")
    for seed, name in enumerate(names):
        check(store, name, seed)
    assert len(list(store.folder.iterdir())) == len(names)


if __name__ == "__main__":  # one fold, started by the test above
    prepare_all(Path(sys.argv[1]))


def test_values_that_are_not_declared_are_named(dataset, store):
    store.prepare(dataset, ["a"], declared=(-1, 0, 1), processes=1, progress=False)
    with pytest.raises(RuntimeError, match=r"of case b could not be .*: its label holds the value 1, which"):
        store.prepare(dataset, ["a", "b"], declared=(-1, 0, 255), processes=1, progress=False)


def test_maps_may_lie_elsewhere(dataset, store, tmp_path):
    elsewhere = replace(store, beside=tmp_path / "results")
    assert not elsewhere.folder.exists() and elsewhere.missing(["a"]) == ["a"]
    elsewhere.prepare(dataset, ["a"], processes=1, progress=False)
    check(elsewhere, "a", 1)
    assert elsewhere.folder == tmp_path / "results" / store.folder.name and not store.folder.exists()
