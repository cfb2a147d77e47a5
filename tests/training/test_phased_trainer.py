"""The phases of a training: in one process, without workers, on a small phantom data set."""

import os
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.trainers import ONE_CONVOLUTION
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_airway.losses.rows import AIIB23, DICE, TANG, TANG_ROOT
from nnunetv2_airway.losses.weights import BREAKAGE, CENTERLINE_DISTANCE, LOCAL_IMBALANCE, MISSED_CENTERLINE
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
from nnunetv2_airway.trainers.wings_lib import (
    nnUNetTrainerWingsLIB,
    nnUNetTrainerWingsLIB_demo,
    nnUNetTrainerWingsLIBRoot,
)
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.maps.mined import breakage_attention, missed_closeness
from nnunetv2_airway.training.maps.store import MapStore
from nnunetv2_airway.training.monitoring import LEAKAGE, LENGTH, PRECISION
from nnunetv2_airway.training.sampling.hard_regions import HardRegions
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, RANDOM, Phase
from nnunetv2_airway.tree.centerline import ON_LINE, centerline_closeness

SMALL = dict(plans_patch_size=(24, 32, 32), plans_batch_size=4, patches_per_case=1, mining_step_size=1.0)


class Phased(AirwayTrainer):
    network = ONE_CONVOLUTION
    phases = (
        Phase(2, DICE),
        Phase(1, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM),
        Phase(2, TANG, (LOCAL_IMBALANCE, CENTERLINE_DISTANCE), HARD_SMALL_RANDOM),
    )


for name, value in SMALL.items():
    setattr(Phased, name, value)


class Stopped(BaseException):
    """As a signal would end a process: nothing catches it."""


def run(trainer, stop_at=None):
    """Train, and note what each epoch used; stop at the start of an epoch's training."""
    trainer.seen = []
    original = trainer.on_train_epoch_start

    def on_train_epoch_start():
        if trainer.current_epoch == stop_at:
            raise Stopped
        original()
        loader = trainer.dataloader_train.data_loader
        kinds = Counter(loader.get_do_oversample(index) for index in range(4))
        trainer.seen.append(
            (trainer.current_epoch, trainer.loss.loss, trainer.loss.weights, loader._data.sampling, dict(kinds))
        )
        assert trainer.loss.training

    validate = trainer.validation_step

    def validation_step(batch):
        assert not trainer.loss.training and not trainer.network.training
        assert trainer.dataloader_val.data_loader._data.sampling == RANDOM
        return validate(batch)

    trainer.on_train_epoch_start, trainer.validation_step = on_train_epoch_start, validation_step
    trainer.run_training()
    return trainer.seen


def logged(trainer) -> str:
    return Path(trainer.log_file).read_text()


RANDOM_KINDS, ALL_KINDS = {"random": 4}, {"hard": 2, "small": 1, "random": 1}
EXPECTED = [
    (0, DICE, (), RANDOM, RANDOM_KINDS),
    (1, DICE, (), RANDOM, RANDOM_KINDS),
    (2, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM, ALL_KINDS),
    (3, TANG, (LOCAL_IMBALANCE, CENTERLINE_DISTANCE), HARD_SMALL_RANDOM, ALL_KINDS),
    (4, TANG, (LOCAL_IMBALANCE, CENTERLINE_DISTANCE), HARD_SMALL_RANDOM, ALL_KINDS),
]


def test_loss_weights_and_loaders_switch_at_the_right_epoch(make):
    trainer = make(Phased)
    assert run(trainer) == EXPECTED
    log = logged(trainer)
    for index, epochs in enumerate(("0 to 1", "2 to 2", "3 to 4")):
        assert f"Phase {index + 1} of 3, epochs {epochs}: {Phased.phases[index]}" in log
    assert log.count("centerline voxels (") == 1 and "(4 cases mined now)" in log
    folder = Path(trainer.output_folder)
    for name in ("progress_airway.png", "patches_phase_1.png", "patches_phase_2.png", "patches_phase_3.png"):
        assert (folder / name).stat().st_size > 1000
    assert len(list((folder / "hard_regions").glob("*.npz"))) == 4
    for name in (LENGTH, PRECISION, LEAKAGE):
        assert len(trainer.logger.get_value(name, step=None)) == 5
    # a finished training can be loaded, as --c and --val do, and has nothing left to train
    again = make(Phased, continued=True)
    again.load_checkpoint(str(folder / "checkpoint_final.pth"))
    assert again.current_epoch == again.num_epochs == 5 and run(again) == []


@pytest.mark.usefixtures("without_pictures")
def test_mined_voxels_are_the_centerline_voxels_of_training_cases_that_the_prediction_misses(make, monkeypatch):
    seen = []

    def find_even_planes(self, ct):
        assert not self.network.body.deep_supervision and not self.use_mirroring and self.tile_step_size == 1.0
        seen.append(ct.shape)
        z = torch.where(torch.arange(ct.shape[1]) % 2 == 0, 1.0, -1.0).view(-1, 1, 1).expand(ct.shape[1:])
        return torch.stack((torch.zeros_like(z), z))

    monkeypatch.setattr(nnUNetPredictor, "predict_sliding_window_return_logits", find_even_planes)
    trainer = make(Phased)
    with pytest.raises(Stopped):
        run(trainer, stop_at=2)
    assert trainer.network.body.deep_supervision
    data = trainer.dataloader_train.data_loader._data
    assert len(seen) == len(data.identifiers) == 4 and set(data.hard) == set(data.identifiers)
    for case, hard in data.hard.items():
        line = data.maps["centerline"].read(case).points["centerline"]
        assert hard.tolist() == line[line[:, 0] % 2 == 1].tolist() and len(hard) > 10
    assert len(trainer.dataloader_val.data_loader._data.hard) == 0


@pytest.mark.usefixtures("without_pictures")
def test_mined_maps_come_with_the_labels_of_training_cases_from_the_second_phase_on(make, monkeypatch):
    class Extended(Phased):
        phases = (Phase(1, DICE), Phase(1, AIIB23, (MISSED_CENTERLINE, BREAKAGE)))  # patches stay the same

    def find_slabs(self, ct):
        found = (torch.arange(ct.shape[1]) % 8 < 6).view(-1, 1, 1).expand(ct.shape[1:])
        z = torch.where(found, 1.0, -1.0)
        return torch.stack((torch.zeros_like(z), z))

    monkeypatch.setattr(nnUNetPredictor, "predict_sliding_window_return_logits", find_slabs)
    names = ("centerline", "line", "missed", "breakage")
    for epoch in range(2):
        trainer = make(Extended)
        assert trainer.map_names == names
        with pytest.raises(Stopped):
            run(trainer, stop_at=epoch)
        training, validation = trainer.datasets
        for data, mined in ((training, epoch == 1), (validation, False)):
            for case in data.identifiers:
                label = data.load_case(case)[1][:, :, :, :]
                maps = dict(zip(names, label[1:], strict=True))
                line = np.argwhere(maps["line"])
                assert np.array_equal(maps["line"], maps["centerline"] == ON_LINE) and len(line) > 10
                expected = [np.zeros_like(maps["line"])] * 2
                if mined:
                    found = np.broadcast_to((np.arange(label.shape[1]) % 8 < 6)[:, None, None], label.shape[1:])
                    spacing = trainer.configuration_manager.spacing
                    missed = missed_closeness(label[0] == 1, line, ~found[tuple(line.T)], spacing)
                    expected = [missed, breakage_attention(found)]
                    assert missed.any() and expected[1].max() > 240
                assert np.array_equal(maps["missed"], expected[0]) and np.array_equal(maps["breakage"], expected[1])


def test_a_checkpoint_is_written_every_few_epochs_of_a_long_phase(make):
    class Long(Phased):
        phases = (Phase(5, DICE),)
        save_every = 2

    trainer, saved = make(Long), []
    trainer.initialize()
    trainer.save_checkpoint = lambda file: saved.append((trainer.current_epoch, Path(file).name))
    for epoch in range(5):
        trainer.current_epoch = epoch
        log_epoch(trainer, epoch)
        trainer.on_epoch_end()
    assert [epoch for epoch, name in saved if name == "checkpoint_latest.pth"] == [1, 3]
    assert nnUNetTrainerWingsLIB.save_every <= 5


@pytest.mark.usefixtures("without_pictures")
def test_one_checkpoint_is_written_at_the_end_of_each_phase_but_the_last(make):
    class Several(Phased):
        phases = (Phase(3, DICE), Phase(1, TANG, (LOCAL_IMBALANCE,)), Phase(3, DICE))
        save_every = 2

    trainer, saved = make(Several), []
    trainer.initialize()
    trainer.save_checkpoint = lambda file: saved.append((trainer.current_epoch + 1, Path(file).name))
    for epoch in range(7):
        log_epoch(trainer, epoch)
        trainer.on_epoch_end()
    # after epochs 2, 4 and 6 because of save_every, after 3 and 4 because a phase ends; after 7 training ends
    assert [done for done, name in saved if name == "checkpoint_latest.pth"] == [2, 3, 4, 6]


@pytest.mark.parametrize("stop_at", [pytest.param(1, marks=pytest.mark.slow), 2, 4])
def test_continued_in_the_phase_in_which_it_was_stopped(make, stop_at, monkeypatch):
    with pytest.raises(Stopped):
        run(make(Phased), stop_at=stop_at)
    if stop_at > 2:
        # mined voxels are not mined again
        monkeypatch.setattr(HardRegions, "mine", lambda self, cases, *args, **kwargs: assert_none(cases))
    trainer = make(Phased, continued=True)
    folder = Path(trainer.output_folder)
    latest = folder / "checkpoint_latest.pth"
    trainer.load_checkpoint(str(latest if latest.exists() else folder / "checkpoint_best.pth"))
    first = trainer.current_epoch
    assert stop_at - 1 <= first <= stop_at
    if stop_at == 2:
        assert first == 2, "a checkpoint is written at the end of a phase"
    assert run(trainer) == EXPECTED[first:]
    assert len(trainer.logger.get_value(LENGTH, step=None)) == 5


def assert_none(cases):
    assert cases == []


@pytest.mark.usefixtures("without_pictures")
def test_stopped_while_mining_only_the_rest_is_mined(make, monkeypatch):
    original, mined = HardRegions.mine, []

    def stop_after_one(self, cases, *args, **kwargs):
        original(self, cases[:1], *args, **kwargs)
        raise Stopped

    def note(self, cases, *args, **kwargs):
        mined.extend(cases)
        original(self, cases, *args, **kwargs)

    monkeypatch.setattr(HardRegions, "mine", stop_after_one)
    with pytest.raises(Stopped):
        run(make(Phased))
    monkeypatch.setattr(HardRegions, "mine", note)
    trainer = make(Phased, continued=True)
    trainer.load_checkpoint(str(Path(trainer.output_folder, "checkpoint_latest.pth")))
    assert run(trainer) == EXPECTED[2:]
    assert len(mined) == 3 and "(3 cases mined now)" in logged(trainer)


@pytest.mark.usefixtures("without_pictures")
def test_a_new_training_in_the_same_folder_mines_again(make):
    with pytest.raises(Stopped):
        run(make(Phased), stop_at=2)
    again = make(Phased)
    with pytest.raises(Stopped):
        run(again, stop_at=2)
    assert "(4 cases mined now)" in logged(again)


def test_maps_are_computed_before_the_first_epoch_and_only_once(make, workspace):
    for folder in (workspace / "nnUNet_preprocessed").rglob("*_airway_maps"):
        shutil.rmtree(folder)
    written = []
    for _ in range(2):
        with pytest.raises(Stopped):
            run(make(Phased), stop_at=0)
        (folder,) = (workspace / "nnUNet_preprocessed").rglob("*_airway_maps")
        written.append({file.name: file.stat().st_mtime_ns for file in folder.iterdir()})
    assert len(written[0]) == 5 and written[0] == written[1]


def test_maps_are_in_mm_of_the_preprocessed_grid(make):
    trainer = make(Phased)
    trainer.initialize()
    trainer.prepare_phase()
    training, _ = trainer.datasets
    spacing = trainer.configuration_manager.spacing
    assert len(set(spacing)) == 3
    for case in training.identifiers:
        label = training.dataset.load_case(case)[1][0]
        expected, _ = centerline_closeness(label == 1, spacing)
        assert np.array_equal(training.maps["centerline"].read(case).values[:], expected)
        assert not np.array_equal(centerline_closeness(label == 1, (1, 1, 1))[0], expected)


def test_no_worker_of_an_old_phase_stays(make, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = make(Phased)
    trainer.initialize()
    trainer.on_train_start()
    old = [*trainer.dataloader_train._processes, *trainer.dataloader_val._processes]
    assert old and all(process.is_alive() for process in old)
    trainer.logger.log("epoch_start_timestamps", 1.0, 0)
    trainer.logger.log("epoch_start_timestamps", 2.0, 1)
    alive = []
    monkeypatch.setattr(HardRegions, "mine", lambda *args, **kwargs: alive.extend(p.is_alive() for p in old))
    monkeypatch.setattr(HardRegions, "read", lambda self, case: np.zeros((0, 3), int))
    trainer.current_epoch = 2
    trainer.on_epoch_start()
    assert alive == [False] * len(old), "they have ended before the new phase is prepared"
    assert next(trainer.dataloader_train)["data"].shape[0] == 4
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        loader._finish()


def test_training_without_deep_supervision_is_refused(make):
    trainer = make(Phased)
    trainer.enable_deep_supervision = False
    with pytest.raises(NotImplementedError, match="enable_deep_supervision = True"):
        trainer.initialize()


def test_validation_counts_the_centerline(make):
    trainer = make(Phased)
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_val)
    label, closeness = batch["target"]
    assert closeness.dtype == torch.uint8 and (label[closeness == ON_LINE] == 1).all()
    lines = (closeness == ON_LINE).sum().item()
    for bias, share in ((50.0, 1), (-50.0, 0)):
        with torch.no_grad():
            trainer.network.body.last.bias.fill_(bias)
            trainer.on_validation_epoch_start()
            result = trainer.validation_step({"data": batch["data"], "target": [label.clone(), closeness]})
        assert (result["line_found"], result["line"]) == (share * lines, lines)
    assert not trainer.network._forward_hooks


def log_epoch(trainer, epoch, dice=0.5, other=0.5):
    """What an epoch logs before it ends."""
    now = {"mean_fg_dice": dice, "dice_per_class_or_region": [dice], LENGTH: other, PRECISION: other, LEAKAGE: 0.1}
    now |= dict.fromkeys(("train_losses", "val_losses", "lrs", "epoch_start_timestamps"), 1.0)
    for name, value in now.items():
        trainer.logger.log(name, value, epoch)


def test_an_epoch_s_figures_come_from_the_counts_of_all_its_patches(make):
    trainer = make(Phased)
    counts = [(50, 15, 40, 10, 20), (10, 5, 0, 20, 30)]
    names = ("tp_hard", "fp_hard", "fn_hard")
    outputs = [
        {name: np.array([value]) for name, value in zip(names, values[:3], strict=True)}
        | {"line_found": values[3], "line": values[4], "loss": np.array(1.0)}
        for values in counts
    ]
    trainer.on_validation_epoch_end(outputs)
    found = {name: trainer.logger.get_value(name, step=0) for name in (LENGTH, PRECISION, LEAKAGE)}
    assert found == {LENGTH: 0.6, PRECISION: 0.75, LEAKAGE: 0.2}


def test_the_best_checkpoint_is_the_one_with_the_best_score_not_the_best_dice(make):
    trainer = make(Phased)
    trainer.initialize()
    saved = []
    trainer.save_checkpoint = lambda file: saved.append((Path(file).name, trainer.current_epoch))
    # Dice rises, length and precision fall more: the first epoch is the best
    for epoch, (dice, other) in enumerate([(0.5, 0.9), (0.9, 0.3), (0.95, 0.2)]):
        trainer.current_epoch = epoch
        log_epoch(trainer, epoch, dice, other)
        trainer.on_epoch_end()
        assert trainer.current_epoch == epoch + 1
    assert [epoch for name, epoch in saved if name == "checkpoint_best.pth"] == [0]
    assert [epoch for name, epoch in saved if name == "checkpoint_latest.pth"] == [1, 2], "the ends of phases 1 and 2"
    assert "mean of pseudo Dice, tree length detected, precision; saved as checkpoint_best.pth" in logged(trainer)
    assert "New best EMA pseudo Dice" not in logged(trainer)


def test_the_papers_schedules():
    rows = [(phase.epochs, phase.loss, phase.weights, phase.sampling) for phase in nnUNetTrainerWingsLIB.phases]
    both = (LOCAL_IMBALANCE, CENTERLINE_DISTANCE)
    assert rows == [
        (100, DICE, (), RANDOM),
        (5, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM),
        (45, TANG, both, HARD_SMALL_RANDOM),
    ]
    assert (TANG.alpha, TANG.beta, TANG.root) == (1, 1, 2)
    assert (TANG_ROOT.alpha, TANG_ROOT.beta, TANG_ROOT.root) == (0.2, 0.8, 0.7)
    for row, root in zip(nnUNetTrainerWingsLIB.phases, nnUNetTrainerWingsLIBRoot.phases, strict=True):
        assert (row.epochs, row.weights, row.sampling) == (root.epochs, root.weights, root.sampling)
        assert root.loss == (TANG_ROOT if row.loss == TANG else DICE)
    assert nnUNetTrainerWingsLIB.save_every <= 5 and nnUNetTrainerWingsLIB.mining_step_size == 0.5
    demo = nnUNetTrainerWingsLIB_demo.phases
    assert [row.loss for row in demo] == [DICE, TANG, TANG] and len(demo[2].weights) == 2


def test_a_misspelt_attribute_is_pointed_out():
    with pytest.warns(UserWarning, match="Misspelt sets initial_lrs, which nothing reads. Is initial_lr meant"):
        type("Misspelt", (nnUNetTrainerWings,), {"initial_lrs": 1e-3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type("Right", (nnUNetTrainerWings,), {"initial_lr": 1e-3, "something_else": 1})


def test_maps_lie_beside_the_results_where_nothing_can_be_written_beside_the_cases(make, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: "nnUNet_preprocessed" not in str(path))
    trainer = make(Phased)
    read = MapStore.missing
    # as if there were no maps of other tests
    monkeypatch.setattr(MapStore, "missing", lambda self, cases: read(self, cases) if self.beside else list(cases))
    trainer.prepare_phase()
    (folder,) = tmp_path.rglob("*_airway_maps")
    assert folder.parent == Path(trainer.output_folder_base).parent and len(list(folder.iterdir())) == 5
    assert trainer.datasets[0].maps["centerline"].folder == folder
