from pathlib import Path

import pytest

from nnunetv2_airway.conversion.layout import (
    Case,
    case_of,
    exact_subject,
    image_files,
    paired,
    paired_folders,
    stem,
    subfolders,
    walk,
)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("ATM_001_0000.nii.gz", "ATM_001"), ("ATM_001.nii.gz", "ATM_001"), ("1.3.6.1.nii", "1.3.6.1"), ("a.mhd", "a"),
        ("A.NII.GZ", "A"), ("a_0001.nrrd", "a_0001"), ("a.raw", None), ("._a.nii.gz", None), ("a.nii.gz.part", None),
    ],
)  # fmt: skip
def test_a_case_is_called_by_its_file_without_ending_and_channel(name, case):
    assert stem(Path("folder", name)) == case


def test_files_are_listed_by_case(tmp_path):
    touch(tmp_path / "b.nii.gz", tmp_path / "a_0000.mhd", tmp_path / "a.raw")
    (tmp_path / "c.nii.gz").mkdir()
    touch(tmp_path / "b_0000.nii.gz")
    (tmp_path / "d.nii.gz").symlink_to(tmp_path / "nowhere")  # to be named, not to be passed over
    assert image_files(tmp_path) == {
        "a": [tmp_path / "a_0000.mhd"], "b": [tmp_path / "b.nii.gz", tmp_path / "b_0000.nii.gz"],
        "d": [tmp_path / "d.nii.gz"],
    }  # fmt: skip


def test_what_has_no_counterpart_is_a_case_with_that_problem():
    cts = {name: [Path(f"ct_{name}")] for name in "abe"} | {"d": [Path("one"), Path("two")]}
    cases = paired(cts, {name: [Path(f"label_{name}")] for name in "bcd"} | {"e": [Path("x"), Path("y")]})
    assert cases[1] == Case("b", Path("ct_b"), Path("label_b"))
    assert [case.name for case in cases] == ["a", "b", "c", "d", "e"]
    assert "several files of this name, one, two:" in cases[3].problem and cases[3].ct is None
    assert "several files of this name, x, y:" in cases[4].problem and cases[4].label is None
    assert case_of("f", [Path("ct")], None) == Case("f", Path("ct"))
    assert cases[0].problem == "there is no label of this name for ct_a"
    assert cases[2].problem == "there is no CT of this name for label_c"


def test_folders_are_found_at_every_level_and_paired_with_those_beside_them(tmp_path):
    for number, folder in enumerate(("", "one", "one/two")):
        touch(tmp_path / folder / "IMG" / f"{number}.nii.gz", tmp_path / folder / "gt" / f"{number}.nii.gz")
    touch(tmp_path / "alone" / "img" / "9.nii.gz", tmp_path / "one" / "imgs" / "8.nii.gz")
    assert [folder.parent.name for folder in subfolders([tmp_path / "one"], "img")] == ["one", "two"]
    cases = {case.name: case for case in paired_folders([tmp_path], "img", "gt")}
    assert "there is no label of this name" in cases.pop("9").problem
    assert [(case.name, case.ct.parent.parent, case.label.parent.parent) for case in cases.values()] == [
        (str(number), tmp_path / folder, tmp_path / folder) for number, folder in enumerate(("", "one", "one/two"))
    ]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(tmp_path / "b" / "2", tmp_path / "b" / "1", tmp_path / ".git" / "3", tmp_path / "b" / ".DS_Store")
    assert list(walk([tmp_path])) == [(tmp_path, []), (tmp_path / "b", [tmp_path / "b" / "1", tmp_path / "b" / "2"])]


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "far" / "CASE01" / "1", tmp_path / "source" / "2")
    (tmp_path / "source" / "CASE01").symlink_to(tmp_path / "far" / "CASE01")
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    found = [file.relative_to(tmp_path) for _, files in walk([tmp_path / "source"]) for file in files]
    assert found == [Path("source/2"), Path("source/CASE01/1")]


def test_neighbouring_exact09_cases_are_one_subject():
    assert exact_subject("CASE01") == exact_subject("Airway_CASE04") == "EXACT'09 1 to 4"
    assert exact_subject("CASE05") == "EXACT'09 5 to 8" and exact_subject("CASE20") == "EXACT'09 17 to 20"
    assert exact_subject("ATM_001") == ""
