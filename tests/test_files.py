import json

import pytest

from nnunetv2_airway.files import atomic_path, write_json


def test_a_finished_file_replaces_the_old_one_and_nothing_else_stays(tmp_path):
    target = tmp_path / "case.nii.gz"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.name == target.name
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_file(tmp_path):
    target = tmp_path / "case.nii.gz"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="disk full"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_write_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2]}
