from pathlib import Path

import pytest

from nnunetv2_airway.conversion.layout import (
    Case,
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


def test_one_file_a_case(tmp_path):
    touch(tmp_path / "b.nii.gz", tmp_path / "a_0000.mhd", tmp_path / "a.raw")
    (tmp_path / "c.nii.gz").mkdir()
    assert image_files(tmp_path) == {"a": tmp_path / "a_0000.mhd", "b": tmp_path / "b.nii.gz"}
    touch(tmp_path / "b_0000.nii.gz")
    with pytest.raises(ValueError, match=r"holds b\.nii\.gz and b_0000\.nii\.gz: one file a case"):
        image_files(tmp_path)


def test_what_has_no_counterpart_is_a_case_with_that_problem():
    cases = paired({"a": Path("ct_a"), "b": Path("ct_b")}, {"b": Path("label_b"), "c": Path("label_c")})
    assert cases[1] == Case("b", Path("ct_b"), Path("label_b"))
    assert [case.name for case in cases] == ["a", "b", "c"]
    assert cases[0].problem == "there is no label of this name for ct_a"
    assert cases[2].problem == "there is no CT of this name for label_c"


def test_folders_are_found_at_every_level_and_paired_with_those_beside_them(tmp_path):
    for number, folder in enumerate(("", "one", "one/two")):
        touch(tmp_path / folder / "IMG" / f"{number}.nii.gz", tmp_path / folder / "gt" / f"{number}.nii.gz")
    touch(tmp_path / "alone" / "img" / "9.nii.gz", tmp_path / "one" / "imgs" / "8.nii.gz")
    assert [folder.parent.name for folder in subfolders([tmp_path / "one"], "img")] == ["one", "two"]
    cases = paired_folders([tmp_path], "img", "gt")
    assert [(case.name, case.ct.parent.parent, case.label.parent.parent) for case in cases] == [
        (str(number), tmp_path / folder, tmp_path / folder) for number, folder in enumerate(("", "one", "one/two"))
    ]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(tmp_path / "b" / "2", tmp_path / "b" / "1", tmp_path / ".git" / "3", tmp_path / "b" / ".DS_Store")
    assert list(walk([tmp_path])) == [(tmp_path, []), (tmp_path / "b", [tmp_path / "b" / "1", tmp_path / "b" / "2"])]


def test_neighbouring_exact09_cases_are_one_subject():
    assert exact_subject("CASE01") == exact_subject("Airway_CASE04") == "EXACT'09 1 to 4"
    assert exact_subject("CASE05") == "EXACT'09 5 to 8" and exact_subject("CASE20") == "EXACT'09 17 to 20"
    assert exact_subject("ATM_001") == ""
