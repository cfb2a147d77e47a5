"""The study gives equal budgets, goes on where it stopped, and its table says what was measured."""

import json
import shlex
import shutil
from argparse import ArgumentTypeError
from dataclasses import replace
from types import SimpleNamespace

import pytest
import study
import torch
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerDiceLoss import nnUNetTrainerDiceLoss
from study_results import LIST, read_runs, table, write_results
from study_trainers import shortened

from nnunetv2_airway.io.files import write_json
from nnunetv2_airway.losses.rows import DICE, LOCAL_IMBALANCE
from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerWingsLIB
from nnunetv2_airway.trainers.zheng import nnUNetTrainerWingsGUL
from nnunetv2_airway.training.schedule import Phase, Sampling


def test_a_schedule_keeps_its_shares():
    phases = shortened.scaled(nnUNetTrainerWingsLIB.phases, 30)
    assert [phase.epochs for phase in phases] == [20, 1, 9]
    assert [phase.sampling for phase in phases] == [phase.sampling for phase in nnUNetTrainerWingsLIB.phases]
    assert [phase.epochs for phase in shortened.scaled(nnUNetTrainerWingsLIB.phases, 3)] == [1, 1, 1]
    assert shortened.scaled((Phase(100, DICE, lr_milestones=(50, 90)),), 10)[0].lr_milestones == (5, 9)
    assert sum(phase.epochs for phase in shortened.scaled(nnUNetTrainerWingsGUL.phases, 17)) == 17


def test_a_schedule_is_changed_by_names():
    changes = {
        "phases.0.epochs": 50, "phases.0.sampling": None, "phases.1.sampling": {"small": 0.5, "random": 0.5},
        "phases.2.weights": ("LOCAL_IMBALANCE",), "phases.2.loss": "DICE",
    }  # fmt: skip
    first, second, third = nnUNetTrainerWingsLIB.phases
    assert shortened.changed(nnUNetTrainerWingsLIB.phases, changes) == (
        replace(first, epochs=50, sampling=None),
        replace(second, sampling=Sampling(small=0.5, random=0.5)),
        replace(third, weights=(LOCAL_IMBALANCE,), loss=DICE),
    )


@pytest.mark.parametrize("patch", [None, [64, 48, 64]])
def test_any_trainer_has_a_short_form(monkeypatch, patch):
    given = {"initial_lr": 0.003, "phases.1.weights": []}
    settings = {"attributes": given, "epochs": 30, "patch": patch, "batch": 3}
    monkeypatch.setattr(shortened, "SETTINGS", settings)
    own = shortened.short_form(nnUNetTrainerWingsLIB)
    assert issubclass(own, nnUNetTrainerWingsLIB) and own.initial_lr == 0.003
    assert [len(phase.weights) for phase in own.phases] == [0, 0, 2]
    assert sum(phase.epochs for phase in own.phases) == 30
    expected = (tuple(patch), 3) if patch else (nnUNetTrainerWingsLIB.plans_patch_size, 32)
    assert (own.plans_patch_size, own.plans_batch_size) == expected


def test_the_short_form_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(shortened, "SETTINGS", {"attributes": {}, "epochs": 30, "patch": None})
    assert issubclass(shortened.nnUNetTrainerDiceLoss_study, nnUNetTrainerDiceLoss)
    assert shortened.nnUNetTrainerDiceLoss_study.__name__ == "nnUNetTrainerDiceLoss_study"
    assert not hasattr(shortened, "nnUNetTrainerDiceLoss")
    with pytest.raises(RuntimeError, match="nnUNetTrainerNowhere"):
        _ = shortened.nnUNetTrainerNowhere_study


class Log:
    """The part of a trainer that tells how long its epochs took."""

    def __init__(self, seconds, iterations, epochs):
        ends = [sum(seconds[: index + 1]) for index in range(len(seconds))]
        logged = {
            "epoch_start_timestamps": [*(end - each for end, each in zip(ends, seconds, strict=True)), ends[-1:]],
            "epoch_end_timestamps": ends,
            shortened.ITERATIONS: iterations,
        }
        self.logger = SimpleNamespace(local_logger=SimpleNamespace(my_fantastic_logging=logged))
        self.num_epochs, self.current_epoch, self.batch_size = epochs, len(seconds), 2


def iterations(monkeypatch, log, passed=0.0, **budget):
    monkeypatch.setattr(shortened, "SETTINGS", {"patches": None, "minutes": None, **budget})
    return shortened.Shortened._iterations(log, passed)


def test_time_is_shared_among_the_epochs_that_are_left(monkeypatch):
    assert iterations(monkeypatch, Log([], [], 10), minutes=10) == shortened.FIRST_ITERATIONS
    # 8 iterations took 24 s, 3 s each; 576 s are left for 9 epochs
    assert iterations(monkeypatch, Log([24.0], [8], 10), minutes=10) == round(576 / 9 / 3)
    # an epoch that mined does not count as slow, and its time is gone
    assert iterations(monkeypatch, Log([24.0, 200.0], [8, 10], 10), minutes=10) == round(376 / 8 / 3)
    assert iterations(monkeypatch, Log([24.0], [8], 10), passed=300, minutes=10) == round(276 / 9 / 3)
    assert iterations(monkeypatch, Log([700.0], [8], 10), minutes=10) == 1


def test_patches_are_shared_among_the_epochs(monkeypatch):
    done = []
    for _ in range(7):
        done.append(iterations(monkeypatch, Log([1.0] * len(done), done, 7), patches=100))
    assert 2 * sum(done) == 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nnUNetTrainer", ("nnUNetTrainer", None, {})),
        ("A@598", ("A", 598, {})),
        ("A@5:initial_lr=3e-3;windows=('tang',)", ("A", 5, {"initial_lr": 0.003, "windows": ("tang",)})),
    ],
)
def test_variants_are_read(text, expected):
    variant = study.Variant.parse(text)
    assert (variant.trainer, variant.dataset, variant.attributes) == expected and variant.text == text


@pytest.mark.parametrize("text", ["A:b", "A@x", "A:b=c d"])
def test_what_is_no_variant_is_refused(text):
    with pytest.raises(ArgumentTypeError, match="NAME@DATASET"):
        study.Variant.parse(text)


def test_a_run_trains_predicts_and_evaluates_what_is_held_out(tmp_path, monkeypatch):
    names = {598: "Dataset598_T", 597: "Dataset597_C", 595: "Dataset595_R"}
    monkeypatch.setattr(study, "convert_id_to_dataset_name", names.get)
    monkeypatch.setenv("nnUNet_raw", "/raw")
    lines, variables = [], {}
    folder = tmp_path / "runs" / "A@597:x=1, seed 3"

    def run(commands, line):
        lines.append(shlex.split(line))
        variables.update(commands.variables)
        if lines[-1][0] == "nnUNetv2_train":
            fold = folder / "Dataset597_C" / "A_study__nnUNetPlans__3d_fullres" / "fold_all"
            fold.mkdir(parents=True)
            log = {
                "epoch_start_timestamps": [100.0, 500.0], "epoch_end_timestamps": [400.0, 800.0],
                "study_iterations": [5, 6],
            }  # fmt: skip
            plans = {"configurations": {"3d_fullres": {"batch_size": 4, "patch_size": (32, 48, 64)}}}
            torch.save({"logging": log, "init_args": {"plans": plans}}, fold / "checkpoint_final.pth")

    monkeypatch.setattr(study.Commands, "run", run)
    line = "-d 598 -test 598 595 -patches 44 -device cpu -trainers A@597:x=1 -o"
    args = study.build_parser().parse_args([*line.split(), str(tmp_path)])
    study.one_run(args, args.trainers[0], 3)
    expected = [["nnUNetv2_train", "597", "3d_fullres", "all", "-tr", "A_study", "-device", "cpu"]]
    for test in ("Dataset598_T", "Dataset595_R"):
        raw, predicted, tree, result = (
            f"/raw/{test}", *(f"{folder}/{name}/{test}" for name in ("predictions", "trees", "evaluation"))
        )  # fmt: skip
        network = "-d 597 -c 3d_fullres -f all -tr A_study -device cpu --disable_tta --continue_prediction"
        expected += [
            ["nnUNetv2_predict", "-i", f"{raw}/imagesTs", "-o", predicted, *network.split()],
            ["nnUNetv2_airway_postprocess", "-i", predicted, "-o", tree],
            ["nnUNetv2_airway_evaluate", "-ref", f"{raw}/labelsTs", "-pred", tree, "-o", result],
        ]
    assert lines == expected
    assert variables["nnUNet_results"] == str(folder)
    settings = json.loads(variables["AIRWAY_STUDY"])
    assert (settings["seed"], settings["patches"], settings["attributes"]) == (3, 44, {"x": 1})
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["minutes_trained"], facts["patches_seen"], facts["patch_size"]) == (10.0, 44, [32, 48, 64])
    study.one_run(args, args.trainers[0], 3)
    assert lines == expected  # what has ended is not done again


def evaluated(folder, trainer, seed, lengths):
    run = folder / "runs" / f"{trainer}, seed {seed}"
    (run / "evaluation" / "Dataset598_T").mkdir(parents=True)
    facts = {
        "trainer": trainer, "seed": seed, "minutes_trained": 2.0, "patches_seen": 64, "machine": "3, fast",
        "attributes": {"phases.1.weights": []}, "minutes": None,
    }  # fmt: skip
    write_json(run / "run.json", facts)
    cases = [
        {
            "case": case,
            "metrics": {
                "tree_length_detected": length, "branch_detected": 50.0, "dice": 80.0, "precision": 90.0,
                "exact09": {"leakage_volume_mm3": 10.0}, "by_diameter": {"0-2": {"tree_length_detected": None}},
            },
        }
        for case, length in lengths.items()
    ]  # fmt: skip
    write_json(run / "evaluation" / "Dataset598_T" / "summary.json", {"metric_per_case": cases})


def test_the_table_pairs_cases_and_seeds(tmp_path):
    evaluated(tmp_path, "Other", 0, {"b": 78.0, "a": 64.0})
    evaluated(tmp_path, "Other", 1, {"b": 71.0})
    evaluated(tmp_path, "nnUNetTrainer@3", 0, {"a": 60.0, "b": 70.0})
    evaluated(tmp_path, "nnUNetTrainer@3", 1, {"a": 62.0, "b": 72.0})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(read_runs(tmp_path)).splitlines()]
    assert rows[0][:3] == ["cases of", "trainer", "length %"]
    assert [row[:3] for row in rows[2:4]] == [
        ["Dataset598_T", "nnUNetTrainer@3", "66.0 ± 5.9"], ["Dataset598_T", "Other", "71.0 ± 7.0"],
    ]  # fmt: skip
    # by seed and case: 78 - 70, 64 - 60, 71 - 72
    assert rows[4][1:3] == ["Other - nnUNetTrainer@3", "+3.7 ± 4.5, 2 of 3 up"]
    assert rows[2][rows[0].index("length %, 0-2 mm")] == "-" and rows[2][-2:] == ["2", "64"]


def test_one_line_a_run_and_a_figure(tmp_path):
    evaluated(tmp_path, "nnUNetTrainer", 0, {"a": 60.0, "b": 70.0})
    evaluated(tmp_path, "Other", 0, {"a": 60.0})
    (tmp_path / "runs" / "begun" / "evaluation").mkdir(parents=True)
    write_results(tmp_path)
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[1].startswith("nnUNetTrainer,0,2.0,64,")
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_the_list_is_enough_to_go_on(tmp_path):
    evaluated(tmp_path / "first", "nnUNetTrainer", 0, {"a": 60.0, "b c": 70.0})
    evaluated(tmp_path / "first", "Other:x={'y': 1}", 0, {"a": 60.0})
    write_results(tmp_path / "first")
    listed = tmp_path / "second" / LIST
    listed.parent.mkdir()
    shutil.copy(tmp_path / "first" / LIST, listed)
    assert read_runs(listed.parent) == read_runs(tmp_path / "first")
    write_results(listed.parent)
    assert listed.read_text() == (tmp_path / "first" / LIST).read_text()
    evaluated(listed.parent, "nnUNetTrainer", 0, {"a": 61.0})  # done again
    evaluated(listed.parent, "Third", 0, {"d": 62.0})
    again, other, third = read_runs(listed.parent)
    assert again.cases["Dataset598_T", "a"]["tree_length_detected"] == 61.0
    assert other.trainer == "Other:x={'y': 1}" and third.cases.keys() == {("Dataset598_T", "d")}

    settings = {"seed": 0, "attributes": {"phases.1.weights": []}, "minutes": None}
    assert study._is_listed(listed.parent, "nnUNetTrainer", settings)
    assert not study._is_listed(listed.parent, "nnUNetTrainer", {**settings, "seed": 1})
    with pytest.raises(ValueError, match=r"nnUNetTrainer in .*runs\.csv was begun with .*another folder"):
        study._is_listed(listed.parent, "nnUNetTrainer", {**settings, "minutes": 5})
    listed.write_text("trainer,seed\nA,0\n")
    with pytest.raises(ValueError, match=r"runs\.csv needs the columns minutes_trained, patches_seen"):
        read_runs(listed.parent)


def test_a_run_with_another_budget_is_refused(tmp_path):
    study._same_settings(tmp_path / "run", {"minutes": 40})
    study._same_settings(tmp_path / "run", {"minutes": 40})
    with pytest.raises(ValueError, match="another folder with -o"):
        study._same_settings(tmp_path / "run", {"minutes": 50})
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == {"minutes": 40}
