"""The study gives equal budgets, goes on where it stopped, and its table says what was measured."""

import json
import math
import shlex
import shutil
from argparse import ArgumentTypeError
from dataclasses import replace
from types import SimpleNamespace

import pytest
import study
import torch
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerDiceLoss import nnUNetTrainerDiceLoss
from study_results import CURVES, LIST, at_precision, read_runs, table, write_results
from study_trainers import shortened

from nnunetv2_airway.evaluation import tuning
from nnunetv2_airway.evaluation.tuning import FIGURES, SMALL, Tuning
from nnunetv2_airway.inference.operating_point import OperatingPoint, write_operating_point
from nnunetv2_airway.io.files import write_json
from nnunetv2_airway.losses.rows import DICE
from nnunetv2_airway.losses.weights import LOCAL_IMBALANCE
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
    settings = {"attributes": given, "epochs": 30, "patch": patch, "batch": 3, "width": 1}
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
        ("nnUNetTrainer", ("nnUNetTrainer", None, {}, None)),
        ("A@598", ("A", 598, {}, None)),
        ("A@5:initial_lr=3e-3;windows=('tang',)", ("A", 5, {"initial_lr": 0.003, "windows": ("tang",)}, None)),
        ("A:pretrained_weights='m.pth';x=1", ("A", None, {"x": 1}, "m.pth")),
    ],
)
def test_variants_are_read(text, expected):
    variant = study.Variant.parse(text)
    assert (variant.trainer, variant.dataset, variant.attributes, variant.pretrained) == expected
    assert variant.text == text


def test_a_run_begins_with_pretrained_weights_and_goes_on_without(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(study, "convert_id_to_dataset_name", "Dataset{}_T".format)
    monkeypatch.setattr(study, "_curve", lambda *_: "")
    monkeypatch.setattr(study, "_cost", lambda _: {})
    monkeypatch.setattr(study.Commands, "step", lambda self, title, key, line: steps.append(shlex.split(line)))
    monkeypatch.chdir(tmp_path)
    text = "A:pretrained_weights='m.pth'"
    line = ["-d", "598", "-val", "596", "-test", "595", "-patches", "4", "-o", "out", "-trainers", text]
    args = study.build_parser().parse_args(line)
    study.one_run(args, args.trainers[0], 0)
    assert steps[0][-2:] == ["-pretrained_weights", str(tmp_path / "m.pth")]
    fold = tmp_path / f"out/runs/{text}, seed 0/Dataset598_T/A_study__nnUNetPlans__3d_fullres/fold_all"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").touch()
    study.one_run(args, args.trainers[0], 0)
    assert steps[1][-1] == "--c"


@pytest.mark.parametrize("text", ["A:b", "A@x", "A:b=c d"])
def test_what_is_no_variant_is_refused(text):
    with pytest.raises(ArgumentTypeError, match="NAME@DATASET"):
        study.Variant.parse(text)


def test_a_run_trains_predicts_and_compares_what_is_held_out(tmp_path, monkeypatch):
    names = {598: "Dataset598_T", 597: "Dataset597_C", 596: "Dataset596_V", 595: "Dataset595_R"}
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
    line = "-d 598 -val 596 -test 598 595 -patches 44 -device cpu -trainers A@597:x=1 -o"
    args = study.build_parser().parse_args([*line.split(), str(tmp_path)])
    study.one_run(args, args.trainers[0], 3)
    expected = [["nnUNetv2_train", "597", "3d_fullres", "all", "-tr", "A_study", "-device", "cpu"]]
    tuned = f"{folder}/tuned"
    for test, output, more in (
        ("Dataset596_V", tuned, []),
        *(
            (name, f"{folder}/curves/{name}", ["--thresholds-only", "--also", f"{tuned}/operating_point.json"])
            for name in ("Dataset598_T", "Dataset595_R")
        ),
    ):
        raw, predicted = f"/raw/{test}", f"{folder}/predictions/{test}"
        network = "-d 597 -c 3d_fullres -f all -tr A_study -device cpu --disable_tta -step_size 0.75"
        kept = "--save_probabilities --continue_prediction"
        expected += [
            ["nnUNetv2_predict", "-i", f"{raw}/imagesTs", "-o", predicted, *network.split(), *kept.split()],
            ["nnUNetv2_airway_tune", "-i", predicted, "-ref", f"{raw}/labelsTs", "-o", output, *more],
        ]
    assert lines == expected
    assert variables["nnUNet_results"] == str(folder)
    settings = json.loads(variables["AIRWAY_STUDY"])
    assert (settings["seed"], settings["patches"], settings["attributes"]) == (3, 44, {"x": 1})
    assert (settings["val"], settings["test"]) == (596, [598, 595])
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["minutes_trained"], facts["patches_seen"], facts["patch_size"]) == (10.0, 44, [32, 48, 64])
    study.one_run(args, args.trainers[0], 3)
    assert lines == expected  # what has ended is not done again


POINTS = [OperatingPoint(0.2), OperatingPoint(), OperatingPoint(0.9), OperatingPoint(0.2, bridge=0.1)]
TWO = [OperatingPoint(0.5, thin=0.1), OperatingPoint(0.9, thin=0.3)]


def curve(*places, two=((0, 0), (0, 0))):
    """Lengths and precisions at these points, in this order; a score that is their mean."""
    return {
        point: dict.fromkeys(FIGURES.values(), length) | {"precision": precision, SMALL: float("nan")}
        for point, (length, precision) in zip(POINTS + TWO, (*places, *two), strict=True)
    }


def compared(folder, trainer, seed, curves, point=POINTS[0]):
    """Write what a run leaves."""
    run = folder / "runs" / f"{trainer}, seed {seed}"
    for output in (run / "tuned", run / "curves" / "Dataset598_T"):
        output.mkdir(parents=True)
    facts = {
        "trainer": trainer, "seed": seed, "minutes_trained": 2.0, "patches_seen": 64, "machine": "3, fast",
        "attributes": {"phases.1.weights": []}, "minutes": None,
    }  # fmt: skip
    write_json(run / "run.json", facts)
    tuning._write(Tuning(curves, point, "mean", {}), run / "curves" / "Dataset598_T", {})
    write_operating_point(run / "tuned" / "operating_point.json", point)


def test_length_at_a_precision():
    found = curve((90, 60), (80, 80), (70, 90), (95, 99))
    assert at_precision(found, 80, "tree_length_detected") == 80
    assert at_precision(found, 85, "tree_length_detected") == pytest.approx(75)
    assert at_precision(found, 65, "tree_length_detected") == pytest.approx(87.5)
    assert at_precision(found, 50, "tree_length_detected") == 90
    assert math.isnan(at_precision(found, 95, "tree_length_detected"))  # post-processings are no part of the line
    # where precision goes up and down, the greatest length counts
    assert at_precision(curve((90, 70), (80, 60), (70, 90), (0, 0)), 65, "tree_length_detected") == 90


def test_two_thresholds_are_compared_with_one_of_the_first_trainer(tmp_path):
    stock = curve((75, 60), (70, 80), (60, 90), (0, 0), two=((78, 70), (68, 90)))
    compared(tmp_path, "nnUNetTrainer", 0, {"a": stock})
    compared(tmp_path, "Other", 0, {"a": curve((75, 60), (69, 80), (60, 90), (0, 0), two=((80, 76), (76, 84)))})
    rows = cells_of(read_runs(tmp_path))
    column = rows[0].index("two thresholds, at its precision: length %")
    assert [row[column] for row in rows[2:]] == ["73.0", "78.0", "+8.0, 1 of 1 up"]


def cells_of(runs):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(runs).splitlines()]


def test_a_copy_of_stock_nnunet_is_no_better(tmp_path):
    waves = curve((90, 85), (70, 80), (60, 90), (80, 60))  # more at a higher precision than at p > 0.5
    for trainer in ("nnUNetTrainer@3:x=1", "nnUNetTrainer@3", "Copy"):
        compared(tmp_path, trainer, 0, {"a": waves})
    rows = {row[1]: row for row in cells_of(read_runs(tmp_path))}
    assert all(cell.startswith(("+0.0", "-")) for cell in rows["Copy - nnUNetTrainer@3"][2:-3])
    assert rows["nnUNetTrainer@3"][2].startswith("90.0")


def test_what_is_never_so_precise_is_counted(tmp_path):
    compared(tmp_path, "nnUNetTrainer", 0, {case: curve((75, 60), (70, 90), (60, 95), (0, 0)) for case in "ab"})
    compared(tmp_path, "Other", 0, {"a": curve((75, 60), (70, 80), (60, 85), (0, 0)), "b": curve(*[(80, 91)] * 4)})
    rows = cells_of(read_runs(tmp_path))
    assert rows[4][2] == "+10.0, 1 of 1 up, 1 undefined" and rows[3][2] == "80.0"


def test_the_table_pairs_cases_and_seeds(tmp_path):
    stock = curve((75, 60), (70, 80), (60, 90), (80, 60))
    compared(tmp_path, "Other", 0, {"a": curve((90, 70), (80, 80), (70, 90), (91, 70)), "b": stock}, POINTS[3])
    compared(tmp_path, "Other", 1, {"b": curve((90, 70), (84, 75), (70, 85), (91, 70))})
    compared(tmp_path, "nnUNetTrainer@3", 0, {"a": stock, "b": stock})
    compared(tmp_path, "nnUNetTrainer@3", 1, {"a": stock, "b": stock})
    rows = cells_of(read_runs(tmp_path))
    length = rows[0].index("at its precision: length %")
    assert [[row[1], row[length]] for row in rows[2:]] == [
        ["nnUNetTrainer@3", "70.0 ± 0.0"],
        ["Other", "75.7 ± 5.1"],
        ["Other - nnUNetTrainer@3", "+5.7 ± 5.1, 2 of 3 up"],
    ]
    # each at its own operating point: 91, 80 and 90, and of stock nnU-Net 75 three times
    own = rows[0].index("own point: length %")
    assert rows[3][own].startswith("87.0") and rows[4][own] == "+12.0 ± 6.1, 3 of 3 up"
    assert rows[2][rows[0].index("own point: length %, 0-2 mm")] == "-" and rows[2][-3:] == ["2", "64", "2"]
    score = rows[0].index("own point: score")
    assert rows[2][score] == f"{(3 * 75 + 60) / 4:.1f} ± 0.0"


def test_the_lists_are_enough_to_go_on(tmp_path):
    one = curve((90, 60), (80, 80), (70, 90), (95, 60))
    compared(tmp_path / "first", "nnUNetTrainer", 0, {"a": one, "b c": one})
    compared(tmp_path / "first", "Other:x={'y': 1}", 0, {"a": one}, POINTS[3])
    (tmp_path / "first" / "runs" / "begun" / "curves").mkdir(parents=True)
    write_results(tmp_path / "first")
    assert (tmp_path / "first" / "study.png").read_bytes()[:4] == b"\x89PNG"
    second = tmp_path / "second"
    second.mkdir()
    for name in (LIST, CURVES):
        shutil.copy(tmp_path / "first" / name, second / name)
    assert repr(read_runs(second)) == repr(read_runs(tmp_path / "first"))
    write_results(second)
    for name in (LIST, CURVES):
        assert (second / name).read_text() == (tmp_path / "first" / name).read_text()
    compared(second, "nnUNetTrainer", 0, {"a": curve((91, 60), (80, 80), (70, 90), (95, 60))})  # done again
    compared(second, "Third", 0, {"d": one})
    again, other, third = read_runs(second)
    assert again.curves["Dataset598_T", "a"][POINTS[0]]["tree_length_detected"] == 91.0
    assert other.trainer == "Other:x={'y': 1}" and other.point == POINTS[3]
    assert third.curves.keys() == {("Dataset598_T", "d")}

    settings = {"seed": 0, "attributes": {"phases.1.weights": []}, "minutes": None}
    assert study._is_listed(second, "nnUNetTrainer", settings)
    assert not study._is_listed(second, "nnUNetTrainer", {**settings, "seed": 1})
    with pytest.raises(ValueError, match=r"nnUNetTrainer in .*runs\.csv was begun with .*another folder"):
        study._is_listed(second, "nnUNetTrainer", {**settings, "minutes": 5})
    (second / LIST).write_text("trainer,seed\nA,0\n")
    with pytest.raises(ValueError, match=r"runs\.csv needs the columns minutes_trained, patches_seen, threshold"):
        read_runs(second)


def test_a_run_with_another_budget_is_refused(tmp_path):
    study._same_settings(tmp_path / "run", {"minutes": 40})
    study._same_settings(tmp_path / "run", {"minutes": 40})
    with pytest.raises(ValueError, match="another folder with -o"):
        study._same_settings(tmp_path / "run", {"minutes": 50})
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == {"minutes": 40}
