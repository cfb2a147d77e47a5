"""The operating point that tuning chooses, its figures against those of ``evaluate_case``, and its files."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.cli import tune as command
from nnunetv2_airway.evaluation import tuning
from nnunetv2_airway.evaluation.metrics import evaluate_case
from nnunetv2_airway.inference.operating_point import OperatingPoint, read_operating_point
from nnunetv2_airway.inference.postprocessing import keep_airway_tree
from nnunetv2_airway.tree.parse import parse_tree

pytestmark = pytest.mark.usefixtures("in_this_process")
SPACING = (2.5, 0.8, 0.6)


@pytest.fixture(autouse=True)
def few_thresholds(monkeypatch):
    """Save time."""
    monkeypatch.setattr(tuning, "LOGITS", (-3, -2, -1, 0, 2))


@pytest.fixture
def without_pictures(monkeypatch):
    """Save time."""
    monkeypatch.setattr(tuning, "_draw", lambda target, found: None)


@pytest.fixture
def cases(tmp_path, fork, write_mask):
    """Two forks, whose right branch has a probability of 0.2 only, and falls to 0.08 in its middle in the second."""
    rng = np.random.default_rng(0)
    for case, weak in (("a", 0.2), ("b", 0.08)):
        reference = fork()
        p = np.where(reference, 0.95, rng.uniform(0, 0.0001, reference.shape)).astype(np.float32)
        right = (reference > 0) & (np.indices(p.shape)[2] > 34) & (np.indices(p.shape)[0] < 24)
        p[right] = 0.2
        p[right & (np.indices(p.shape)[2] > 40) & (np.indices(p.shape)[2] < 44)] = weak
        p[2:4, 30:34, 2:6] = 0.3  # false
        write_mask(tmp_path / "references" / f"{case}.nii.gz", reference)
        write_mask(tmp_path / "predictions" / f"{case}.nii.gz", (p > 0.5).astype(np.uint8))
        np.savez_compressed(tmp_path / "predictions" / f"{case}.npz", probabilities=np.stack([1 - p, p]))
    return tmp_path


def files(folder):
    return {
        case: tuple(folder / part / f"{case}.nii.gz" for part in ("predictions", "references")) for case in ("a", "b")
    }


def read(file):
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_figures_are_those_of_the_evaluation(fork):
    reference = fork()
    against = tuning.Reference.of(parse_tree(reference), SPACING)
    prediction = np.roll(fork(12), 1, 1) > 0
    found, full = against.figures(prediction), evaluate_case(prediction, reference, SPACING)
    for name in tuning.SCORED:
        assert found[name] == pytest.approx(full[name])
    assert found[tuning.SMALL] == pytest.approx(full["by_diameter"]["0-2"]["tree_length_detected"], nan_ok=True)
    assert against.figures(np.zeros_like(prediction))["precision"] == 0


def test_the_best_point_is_found_and_written(cases):
    out = cases / "out"
    found = tuning.tune(files(cases), out)
    assert found.chosen.threshold < 0.2 and not found.failed
    best, usual = (found.means(point) for point in (found.chosen, OperatingPoint()))
    assert best["tree_length_detected"] > max(99, usual["tree_length_detected"] + 15)
    assert read_operating_point(out / "operating_point.json") == found.chosen
    record = json.loads((out / "operating_point.json").read_text())
    assert record["cases"] == ["a", "b"] and record["figures"]["precision"] == pytest.approx(best["precision"])
    assert (out / "operating_points.png").read_bytes()[:4] == b"\x89PNG" and (out / "postprocessing.pkl").exists()
    rows = read(out / "operating_points.csv")
    assert {row["case"] for row in rows} == {"mean", "a", "b"}
    chosen = [row for row in rows if row["chosen"] == "yes"]
    assert len(chosen) == 3 and all(float(row["threshold"]) == found.chosen.threshold for row in chosen)
    # every line by another way
    row = next(row for row in rows if row["case"] == "b" and row["threshold"] == "0.268941" and not row["thin"])
    p = np.load(cases / "predictions" / "b.npz")["probabilities"][1]
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(cases / "references" / "b.nii.gz")))
    full = evaluate_case(keep_airway_tree((p > 0.268941).astype(np.uint8)), reference, SPACING)
    assert float(row["dice"]) == pytest.approx(full["dice"], abs=1e-3)
    small = full["by_diameter"]["0-2"]["tree_length_detected"]
    assert float(row[tuning.SMALL] or "nan") == pytest.approx(small, abs=1e-3, nan_ok=True)


def test_diameters_are_in_mm(fork):
    tree = parse_tree(fork())
    thin, wide = tuning.Reference.of(tree, (0.5, 0.5, 0.5)), tuning.Reference.of(tree, (2.5, 0.5, 2.5))
    assert thin.small.sum() == 2 and not wide.small.any()


def test_reconnection_is_chosen_where_a_branch_breaks(cases, monkeypatch, without_pictures):
    monkeypatch.setattr(tuning, "LOGITS", (-1.9, 0))  # 0.13: above the gap of the second case
    monkeypatch.setattr(tuning, "THIN", -0.1)  # nor does a lower threshold for thin airways reach it
    found = tuning.tune(files(cases), cases / "out")
    assert found.chosen.threshold == pytest.approx(0.13, abs=0.01) and found.chosen.bridge is not None


def test_most_length_at_a_precision(cases, without_pictures):
    strict = tuning.tune(files(cases), cases / "strict", precision=99.5)
    assert strict.means(strict.chosen)["precision"] >= 99.5
    assert all(
        strict.means(point)["tree_length_detected"] <= strict.means(strict.chosen)["tree_length_detected"]
        for point in strict.points
        if strict.means(point)["precision"] >= 99.5
    )
    npz = cases / "predictions" / "a.npz"
    p = np.load(npz)["probabilities"]
    p[1, :, :10, :] = 0.999  # precise nowhere
    p[0] = 1 - p[1]
    np.savez_compressed(npz, probabilities=p)
    with pytest.raises(ValueError, match="gives another mask"):
        tuning.tune({"a": files(cases)["a"]}, cases / "none", precision=99.9)


def test_what_has_been_computed_is_not_computed_again(cases, monkeypatch, without_pictures):
    first = tuning.tune(files(cases), cases / "out")
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "read_probability", None)
        assert repr(tuning.tune(files(cases), cases / "out").cases) == repr(first.cases)  # nan is not equal to itself
    other = OperatingPoint(0.123, bridge=0.05)
    assert other in tuning.tune(files(cases), cases / "out", also=[other]).points
    points = tuning.tune(files(cases), cases / "out", also=[other], thresholds_only=True).points
    assert [point for point in points if point.bridge or point.seed] == [other]


def test_the_command(cases, run_main, without_pictures):
    line = ["-i", cases / "predictions", "-ref", cases / "references", "-o", cases / "out"]
    code, said = run_main(command.main, *line)
    assert code == 0 and "p > 0.5 " in said and "Chosen by the mean of length, branches, Dice and precision" in said
    assert "none there" in said and "Precision falls" not in said  # no airway is below 2 mm
    (cases / "predictions" / "b.npz").unlink()
    code, said = run_main(command.main, *line)
    assert code == 1 and "b: FAILED: there is no" in said and "--save_probabilities" in said
    (cases / "predictions" / "a.npz").unlink()
    code, said = run_main(command.main, *line)
    assert code == 1 and "a: there is no" in said
    code, said = run_main(command.main, "-i", cases / "predictions", "-ref", cases / "out", "-o", cases / "out")
    assert code == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-i x", "-i needs -ref and -o"), ("-m x -i y", "not allowed with"), ("", "-m -i is required"),
        ("-m x --precision 100", "between 0 and 100"), ("-i x -ref y -o z -f 0", "-f is for -m"),
    ],
)  # fmt: skip
def test_what_the_command_needs(line, words, capsys):
    with pytest.raises(SystemExit):
        command.main(line.split())
    assert words in capsys.readouterr().err


def test_a_choice_that_costs_precision_says_so(cases, run_main, monkeypatch, without_pictures):
    monkeypatch.setattr(tuning, "THIN", -0.1)  # a lower threshold for thin airways alone would keep the precision
    for case in "ab":
        file = cases / "predictions" / f"{case}.npz"
        p = np.load(file)["probabilities"][1]
        p[:, 1:] = np.maximum(p[:, 1:], 0.2 * (p[:, :-1] > 0.5))  # a wall that is as probable as the right branch
        np.savez_compressed(file, probabilities=np.stack([1 - p, p]))
    line = ["-i", cases / "predictions", "-ref", cases / "references", "-o", cases / "out"]
    code, said = run_main(command.main, *line)
    before, now = (
        float(words.removesuffix("none there").split()[-1]) for words in said.splitlines() if words.startswith("p > ")
    )
    assert code == 0 and now < before - 5
    assert f"Precision falls by {before - now:.0f} points: --precision {before:.0f} takes what keeps it" in said


def test_a_model_without_validated_folds(tmp_path, run_main):
    def validated(fold):
        (tmp_path / f"fold_{fold}" / "validation").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"fold_{fold}" / "validation" / "summary.json").write_text("{}")

    validated("all")
    (tmp_path / "fold_0" / "validation").mkdir(parents=True)  # interrupted
    code, said = run_main(command.main, "-m", tmp_path)
    assert code == 1 and "has no validated fold:" in said and "--val --npz" in said
    code, said = run_main(command.main, "-m", tmp_path / "typo")
    assert code == 1 and f"there is no model {tmp_path / 'typo'}" in said
    code, said = run_main(command.main, "-m", tmp_path, "-f", "all")
    assert code == 1 and "was trained on all cases" in said
    validated(0)
    code, said = run_main(command.main, "-m", tmp_path, "-f", "0", "1")
    assert code == 1 and "has no validated fold 0, 1" in said
    code, said = run_main(command.main, "-m", tmp_path)
    assert code == 1 and "plans.json" in said
