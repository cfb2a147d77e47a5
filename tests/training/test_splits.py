import json
import re

import pytest

from nnunetv2_airway.training.splits import check_splits

KNOWN = [f"ATM_{number:03d}" for number in range(8)]
GOOD = [{"train": KNOWN[:6], "val": KNOWN[6:]}]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "splits_final.json"


@pytest.mark.parametrize("content", [GOOD, [*GOOD, {"train": [], "val": ["nobody"]}]])
def test_a_good_fold_passes_whatever_the_others(file, content):
    file.write_text(json.dumps(content))
    check_splits(file, 0, KNOWN)
    for fold in (len(content), 7):
        check_splits(file, fold, KNOWN)  # nnU-Net then splits at random


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": [f"{name}.nii.gz" for name in KNOWN[:6]], "val": KNOWN[6:]}, "no file ending: ATM_000"),
        ({"train": KNOWN[:6], "val": ["ATM_006", "ATM_099"]}, "fold 0, val: no preprocessed case is called ATM_099"),
        ({"train": KNOWN, "val": []}, "fold 0, val: the list is empty"),
        ({"train": KNOWN}, "must be [{"),
        ({"train": [1, 2], "val": [3]}, "a list of names"),
        ({"train": "ATM_000", "val": ["ATM_001"]}, "a list of names"),
        ({"train": {"ATM_000": 1}, "val": ["ATM_001"]}, "a list of names"),
        ([KNOWN[:6], KNOWN[6:]], "must be [{"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(file, split, words):
    file.write_text(json.dumps([split]))
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        check_splits(file, 0, KNOWN)
    assert str(file) in str(error.value)


def test_a_file_that_is_no_json_is_named(file):
    file.write_text("[{'train': []}]")
    with pytest.raises(ValueError, match=r"splits_final.json must be .*JSONDecodeError"):
        check_splits(file, 0, KNOWN)


def test_fewer_cases_than_folds(file):
    with pytest.raises(ValueError, match=r"there are 4 cases.*fold all.*splits_final.json"):
        check_splits(file, 0, KNOWN[:4])
    check_splits(file, 0, KNOWN[:5])
