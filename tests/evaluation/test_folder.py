import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from nnunetv2_airway.evaluation.folder import evaluate_folder
from nnunetv2_airway.evaluation.metrics import compare, evaluate_case

pytestmark = pytest.mark.usefixtures("in_this_process")
SPACING = (2.5, 0.8, 0.6)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows(file: Path) -> list[dict]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_files_hold_the_figures_of_each_case_and_branch(folders, fork):
    references, predictions, output = folders
    evaluation = evaluate_folder(references, predictions, output)
    names = {"summary.json", "cases.csv", "branches.csv"} | {
        f"{part}.{ending}"
        for case in ("whole", "half")
        for part, ending in ((f"cases/{case}", "json"), (f"cases/{case}", "png"), (f"airway_trees/{case}", "npz"))
    }
    assert set(contents(output)) == names
    assert list(evaluation.cases) == ["half", "whole"]
    assert not (evaluation.missing or evaluation.extra or evaluation.failed)

    expected = {case: evaluate_case(fork(cut), fork(), SPACING) for case, cut in (("half", 12), ("whole", 0))}
    summary = json.loads((output / "summary.json").read_text())
    for case, entry in zip(expected, summary["metric_per_case"], strict=True):
        assert entry["case"] == case and entry["reference_file"] == str(references / f"{case}.nii.gz")
        assert entry["prediction_file"] == str(predictions / f"{case}.nrrd")
        assert entry["metrics"]["tree_length_detected"] == expected[case]["tree_length_detected"]
        assert entry["metrics"]["by_generation"] == expected[case]["by_generation"]
        assert entry["metrics"]["by_diameter"]["0-2"]["dice"] is None  # there are no such branches
    lengths = [figures["tree_length_detected"] for figures in expected.values()]
    assert summary["mean"]["tree_length_detected"] == pytest.approx(np.mean(lengths))
    assert summary["std"]["tree_length_detected"] == pytest.approx(np.std(lengths, ddof=1))
    assert summary["median"]["exact09"]["branch_count"] == np.median(
        [figures["exact09"]["branch_count"] for figures in expected.values()]
    )

    cases = rows(output / "cases.csv")
    assert [row["case"] for row in cases] == ["half", "whole"]
    assert [float(row["by_generation.1.dice"]) for row in cases] == [
        figures["by_generation"]["1"]["dice"] for figures in expected.values()
    ]
    assert cases[0]["by_diameter.0-2.dice"] == ""

    comparison = compare(fork(12), fork(), SPACING)
    branches = [row for row in rows(output / "branches.csv") if row["case"] == "half"]
    assert len(branches) == 3
    for row, branch, detected in zip(branches, comparison.branches, comparison.detected, strict=True):
        assert (int(row["branch"]), int(row["generation"]), int(row["parent"])) == (
            branch.number, branch.generation, branch.parent
        )  # fmt: skip
        assert float(row["length_mm"]) == pytest.approx(branch.length, rel=1e-6)
        assert float(row["diameter_mm"]) == pytest.approx(branch.diameter, rel=1e-6)
        for end in ("start", "end"):
            assert tuple(int(row[f"{end}_{axis}"]) for axis in "zyx") == getattr(branch, end)
        share = comparison.line_found[branch.number - 1] / comparison.line[branch.number - 1]
        assert float(row["found_percent"]) == pytest.approx(100 * share)
        assert row["detected"] == str(int(detected))
    assert sorted(row["detected"] for row in branches) == ["0", "1", "1"]


def test_missing_extra_and_failed_cases_are_listed_and_the_others_evaluated(folders, fork, write_mask):
    references, predictions, output = folders
    write_mask(references / "unpredicted.nii.gz", fork())
    write_mask(predictions / "unknown.nii.gz", fork())
    write_mask(references / "moved.nii.gz", fork())
    write_mask(predictions / "moved.nii.gz", fork(), origin=(-100.0, 20.0, 310.0))
    write_mask(references / "broken.nii.gz", fork())
    (predictions / "broken.nii.gz").write_bytes(b"no image")
    evaluation = evaluate_folder(references, predictions, output)
    assert list(evaluation.cases) == ["half", "whole"]
    assert evaluation.missing == ["unpredicted"] and evaluation.extra == ["unknown"]
    assert list(evaluation.failed) == ["broken", "moved"]
    assert "10 mm from their place" in evaluation.failed["moved"] and "cannot read" in evaluation.failed["broken"]
    summary = json.loads((output / "summary.json").read_text())
    assert summary["missing"] == ["unpredicted"] and summary["extra"] == ["unknown"]
    assert summary["failed"] == evaluation.failed and len(summary["metric_per_case"]) == 2


def test_folders_without_a_common_case(folders):
    references, predictions, output = folders
    for file in list(predictions.iterdir()):
        file.rename(predictions / f"AIR_{file.name}")
    with pytest.raises(ValueError, match=r"predictions holds AIR_half\.nrrd.*labelsTs holds half\.nii\.gz, whole"):
        evaluate_folder(references, predictions, output)
    assert not output.exists()


def test_finished_cases_are_not_evaluated_again_until_a_file_changes(folders, fork, write_mask):
    references, predictions, output = folders
    evaluate_folder(references, predictions, output)
    before = contents(output)
    # an interrupted evaluation: one case done, the other and the summary not there
    (output / "cases" / "half.json").unlink()
    (output / "cases" / "whole.png").write_bytes(b"looked at and marked")
    (output / "summary.json").unlink()
    cases = evaluate_folder(references, predictions, output).cases
    assert ["from_earlier" in cases[case] for case in ("half", "whole")] == [False, True]
    after = contents(output)
    assert after.pop("cases/whole.png") == b"looked at and marked"
    assert {name: content for name, content in before.items() if name != "cases/whole.png"} == after

    write_mask(predictions / "whole.nrrd", fork(12))
    (output / "cases" / "half.json").write_text('{"fingerp')  # torn
    (output / "cases" / "half.png").unlink()
    evaluation = evaluate_folder(references, predictions, output)
    assert evaluation.cases["whole"]["metrics"] == evaluation.cases["half"]["metrics"]
    assert contents(output)["cases/whole.png"] != b"looked at and marked"
    (output / "cases" / "half.png").unlink()
    evaluate_folder(references, predictions, output)
    assert contents(output)["cases/half.png"] == before["cases/half.png"]


def test_what_cannot_be_evaluated_now_leaves_no_earlier_results_behind(folders, write_mask):
    references, predictions, output = folders
    evaluate_folder(references, predictions, output)
    write_mask(references / "new.nii.gz", np.ones((9, 9, 9), np.uint8))
    write_mask(predictions / "new.nii.gz", np.ones((9, 9, 9), np.uint8))
    (predictions / "half.nrrd").write_text("broken")
    (predictions / "whole.nrrd").unlink()
    evaluate_folder(references, predictions, output)
    assert {file.name for file in (output / "cases").iterdir()} == {"new.json", "new.png"}


def test_names_are_not_read_as_formulas(folders):
    references, predictions, output = folders
    for folder, old in ((references, "half.nii.gz"), (predictions, "half.nrrd")):
        (folder / old).rename(folder / old.replace("half", "a$^$ b,=1"))
    assert not evaluate_folder(references, predictions, output).failed
    assert rows(output / "cases.csv")[0]["case"] == "a$^$ b,=1"


def test_references_without_any_airway_are_refused(folders, fork, write_mask):
    references, predictions, output = folders
    for case in ("half", "whole"):
        write_mask(references / f"{case}.nii.gz", 0 * fork())
    with pytest.raises(ValueError, match=r"no reference of .*labelsTs holds airways"):
        evaluate_folder(references, predictions, output)
    with pytest.raises(ValueError, match="-o is the folder of the references"):
        evaluate_folder(references, predictions, references / ".." / "labelsTs")


def test_what_the_reference_loses_with_its_smaller_pieces_is_recorded(folders, write_mask):
    references, predictions, output = folders
    reference = np.zeros((50, 40, 60), np.uint8)
    reference[10:30, 10:15, 10:15] = 1
    reference[31:36, 10:15, 10:15] = 1
    write_mask(references / "half.nii.gz", reference)
    records = evaluate_folder(references, predictions, output).cases
    assert records["half"]["reference_left_out"] == pytest.approx(5 / 25)
    assert records["whole"]["reference_left_out"] == 0


def test_the_labels_that_are_airway_can_be_chosen_and_are_remembered(folders, fork, write_mask):
    references, predictions, output = folders
    walls = fork()
    walls[:, 16, :] = 2 * (fork()[:, 17, :] > 0)
    write_mask(references / "whole.nii.gz", walls)
    assert "Say with -l" in evaluate_folder(references, predictions, output).failed["whole"]
    metrics = [
        evaluate_folder(references, predictions, output, airway=airway).cases["whole"]["metrics"]["sensitivity"]
        for airway in ([1, 3], [1, 2, 3])
    ]
    assert metrics[0] == 100 > metrics[1]


def test_empty_masks_have_records_and_pictures_too(folders, fork, write_mask):
    references, predictions, output = folders
    empty = np.zeros_like(fork())
    write_mask(predictions / "half.nrrd", empty)
    write_mask(references / "whole.nii.gz", empty)
    write_mask(predictions / "whole.nrrd", empty)
    evaluation = evaluate_folder(references, predictions, output)
    assert json.loads((output / "summary.json").read_text())["empty"] == ["half", "whole"]
    assert evaluation.cases["half"]["metrics"]["tree_length_detected"] == 0
    assert evaluation.cases["whole"]["metrics"]["tree_length_detected"] is None
    assert "NaN" not in (output / "summary.json").read_text()
    assert all(imread(output / "cases" / f"{case}.png").size for case in ("half", "whole"))
