import inspect
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from fixtures.trainers import ONE_CONVOLUTION
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE
from nnunetv2_airway.losses.rows import DICE, TANG
from nnunetv2_airway.losses.weights import LOCAL_IMBALANCE
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerWingsLIB_demo
from nnunetv2_airway.training import airway_trainer
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.augmentation import FromAugmentationRange, ToAugmentationRange
from nnunetv2_airway.training.micro_batch import rehearse
from nnunetv2_airway.training.schedule import RANDOM, Phase


class SmallTrainer(AirwayTrainer):
    network = ONE_CONVOLUTION
    plans_patch_size = (24, 32, 32)
    plans_batch_size = 4
    patches_per_case = 3


def logged(trainer) -> str:
    with open(trainer.log_file) as file:  # noqa: PTH123, nnU-Net's own string
        return file.read()


def test_the_recipe(make):
    trainer = make(nnUNetTrainerWings)
    trainer.initialize()
    configuration = trainer.configuration_manager
    assert configuration.batch_size == 32
    # the phantoms have 72 x 64 voxels in plane; nnU-Net resamples them to the median spacing
    assert configuration.patch_size == [min(128, int(n) // 8 * 8) for n in configuration.median_image_size_in_voxels]
    assert trainer.num_epochs == 100 and trainer.save_every <= 5
    assert trainer.loss.loss == DICE and trainer.loss.weights == () and trainer.phase.sampling == RANDOM
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    for epoch in (0, 50, 99):
        trainer.lr_scheduler.step(epoch)
        assert trainer.optimizer.param_groups[0]["lr"] == 1e-4
    assert trainer.network.hounsfield.factor.shape[1] == 2


def test_a_large_image_gets_the_paper_s_patch(make):
    def large(plans, dataset):
        plans["configurations"]["3d_fullres"]["median_image_size_in_voxels"] = [400, 512, 512]

    assert make(nnUNetTrainerWings, large).configuration_manager.patch_size == [128, 128, 128]


def test_an_epoch_is_16_patches_of_each_training_case(make):
    trainer = make(SmallTrainer)
    trainer.initialize()
    trainer.prepare_phase()
    training, validation = trainer.datasets
    assert (len(training.identifiers), len(validation.identifiers)) == (4, 1)
    assert trainer.num_iterations_per_epoch == 3 and trainer.num_val_iterations_per_epoch == 1
    assert nnUNetTrainerWings.patches_per_case == 16


def started(trainer):
    trainer.initialize()
    trainer.on_train_start()
    return next(trainer.dataloader_train)


def test_out_of_memory_halves_the_micro_batch_logs_it_and_trains_the_whole_batch(make, monkeypatch):
    monkeypatch.setenv(FLOAT32_VARIABLE, "1")
    trainers = [make(SmallTrainer), make(SmallTrainer)]
    batch = started(trainers[0])
    started(trainers[1])
    trainers[1].network.load_state_dict(trainers[0].network.state_dict())

    def hook(module, inputs):
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("simulated")

    trainers[1].network.hounsfield.register_forward_pre_hook(hook)
    for trainer in trainers:
        trainer.network.body.dropout = 0
    losses = [float(trainer.train_step({k: v for k, v in batch.items()})["loss"]) for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert trainers[1].micro_batches.size == 1
    assert "now runs 2 patch(es) at a time" in logged(trainers[1]) and "now runs 1 patch(es)" in logged(trainers[1])


def test_memory_that_ends_inside_the_optimizer_is_trained_again_from_a_scaler_that_has_unscaled_nothing(make):
    trainer = make(SmallTrainer)
    batch = started(trainer)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    before = [parameter.clone() for parameter in trainer.network.parameters()]

    def out_of_memory(*args):
        hook.remove()
        raise torch.OutOfMemoryError("simulated")

    hook = trainer.optimizer.register_step_pre_hook(out_of_memory)
    assert torch.isfinite(torch.as_tensor(trainer.train_step(batch)["loss"]))
    assert trainer.micro_batches.size == 2 and "now runs 2 patch(es) at a time" in logged(trainer)
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.network.parameters(), strict=True))


def test_ddp_ranks_agree_on_a_micro_batch_with_the_loss_of_each_phase(make, tmp_path, monkeypatch):
    class TwoPhases(SmallTrainer):
        network = ONE_CONVOLUTION
        phases = (Phase(2, DICE), Phase(1, TANG, (LOCAL_IMBALANCE,)))

    trainer, asked = make(TwoPhases), []

    def record(network, micro_batches, batch, loss, device):
        asked.append((trainer.current_epoch, loss.loss, network is bare, batch["data"].shape, network.training))
        rehearse(network, micro_batches, batch, loss, device)

    def out_of_memory(module, inputs):
        if len(inputs[0]) > 2:
            raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(airway_trainer, "rehearse", record)
    trainer.initialize()
    bare = trainer.network
    bare.body.register_forward_pre_hook(out_of_memory)
    with one_rank_of_ddp(tmp_path):
        trainer.is_ddp, trainer.network = True, DistributedDataParallel(bare)
        trainer.on_train_start()
        for trainer.current_epoch in range(3):
            trainer.network.eval()
            trainer.on_epoch_start()
    shape = (4, 1, 24, 32, 32)
    assert asked == [(0, DICE, True, shape, True), (2, TANG, True, shape, True)]
    assert trainer.micro_batches.size == 2 and "2 patch(es) at a time fit into the memory of all" in logged(trainer)
    assert trainer.loss.ddp, "the training's loss adds up the sums of all ranks"


def test_what_is_no_lack_of_memory_is_not_tried_again(make):
    trainer = make(SmallTrainer)
    batch = started(trainer)

    def hook(module, inputs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer.network.hounsfield.register_forward_pre_hook(hook)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.train_step(batch)
    assert trainer.micro_batches.size == 4


@contextmanager
def one_rank_of_ddp(folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_not_even_one_patch_fits(make):
    trainer = make(SmallTrainer)
    batch = started(trainer)

    def hook(module, inputs):
        raise torch.OutOfMemoryError("simulated")

    trainer.network.hounsfield.register_forward_pre_hook(hook)
    with pytest.raises(RuntimeError, match=r"does not hold 1 patch\(es\) of \(24, 32, 32\) voxels.*--c"):
        trainer.train_step(batch)


def test_training_patches_stay_in_hounsfield_units(make):
    batch = started(make(SmallTrainer))
    assert batch["data"].shape == (4, 1, 24, 32, 32)
    assert [target.shape for target in batch["target"]] == [(4, 1, 24, 32, 32)] * 2
    assert batch["data"].min() < -850 and batch["data"].max() > 0


def test_intensities_are_augmented_in_a_range_made_for_hounsfield_units(make):
    trainer = make(SmallTrainer)
    started(trainer)
    steps = trainer.dataloader_train.data_loader.transforms.transforms
    kinds = [type(step) for step in steps]
    enter, leave = kinds.index(ToAugmentationRange), kinds.index(FromAugmentationRange)
    assert steps[enter].scale == steps[leave].scale == trainer.hounsfield_scale
    places = [place for place, kind in enumerate(kinds) if kind is RandomTransform]
    assert places and all(enter < place < leave for place in places)
    validation = trainer.dataloader_val.data_loader.transforms.transforms
    assert not any(isinstance(step, RandomTransform | ToAugmentationRange) for step in validation)


def test_on_the_cpu_a_micro_batch_is_bounded(make):
    def large(plans, dataset):
        plans["configurations"]["3d_fullres"]["median_image_size_in_voxels"] = [400, 512, 512]

    trainer = make(nnUNetTrainerWings, large)
    trainer.initialize()
    assert trainer.micro_batches.size == 1
    small = make(nnUNetTrainerWingsLIB_demo, large)
    small.initialize()
    assert small.micro_batches.size == small.batch_size


def test_a_crash_while_saving_leaves_the_previous_checkpoint(make, tmp_path, monkeypatch):
    trainer = make(SmallTrainer)
    trainer.initialize()
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()

    def crash(content, name):
        with open(name, "wb") as half:  # noqa: PTH123
            half.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(OSError, match="disk full"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before


def test_ct_plans_are_warned_of_and_others_refused(make):
    def schemes(name):
        def change(plans, dataset):
            plans["configurations"]["3d_fullres"]["normalization_schemes"] = [name]

        return change

    trainer = make(SmallTrainer, change=schemes("CTNormalization"))
    trainer.initialize()
    assert "WARNING: these plans use nnU-Net's CT normalisation" in logged(trainer)
    # what the preprocessing has divided out, the network's first layer multiplies back
    found = trainer.plans_manager.foreground_intensity_properties_per_channel["0"]
    hu = torch.tensor([-1000.0, -600.0, -250.0]).view(1, 1, 1, 1, 3)
    plain = make(SmallTrainer)
    plain.initialize()
    torch.testing.assert_close(
        trainer.network.hounsfield((hu - found["mean"]) / found["std"]), plain.network.hounsfield(hu)
    )
    with pytest.raises(ValueError, match=r"ZScoreNormalization.*cannot be turned back"):
        make(SmallTrainer, change=schemes("ZScoreNormalization"))


def test_a_region_trains_and_validates(make):
    def regions(plans, dataset):
        dataset["labels"] = {"background": 0, "airway": [1, 2]}
        dataset["regions_class_order"] = [1]

    trainer = make(SmallTrainer, change=regions)
    batch = started(trainer)
    assert trainer.network.heads == batch["target"][0].shape[1] == 1
    assert torch.isfinite(torch.as_tensor(trainer.train_step(batch)["loss"]))
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        result = trainer.validation_step(next(trainer.dataloader_val))
    assert result["tp_hard"].shape == (1,)


def test_the_predictor_builds_the_same_network_without_group_outputs(make):
    trainer = make(SmallTrainer)
    trainer.initialize()
    network = type(trainer).build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, enable_deep_supervision=False
    )
    network.load_state_dict(trainer.network.state_dict())
    ct = torch.randint(-1000, 300, (1, 1, 24, 32, 32)).float()
    trainer.network.eval()
    with torch.no_grad():
        assert torch.equal(network.eval()(ct), trainer.network(ct)[0])


def test_the_trainer_is_an_nnunet_trainer_that_copies_none_of_its_methods():
    between = nnUNetTrainerWings.__mro__[1 : nnUNetTrainerWings.__mro__.index(nnUNetTrainer)]
    assert [cls.__name__ for cls in between] == ["AirwayTrainer", "PhasedTrainer"]
    for cls in between:
        for name, method in vars(cls).items():
            if inspect.isfunction(method) and hasattr(nnUNetTrainer, name):
                ours, stock = (
                    {line.strip() for line in inspect.getsource(source).splitlines()[1:] if len(line.strip()) > 30}
                    for source in (method, getattr(nnUNetTrainer, name))
                )
                assert len(ours & stock) < 2, f"{cls.__name__}.{name} repeats {ours & stock}"
