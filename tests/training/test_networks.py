import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_airway.architectures.wingsnet import PARTITIONS
from nnunetv2_airway.losses.functional import local_imbalance_weight, union_loss
from nnunetv2_airway.losses.rows import DICE, TANG
from nnunetv2_airway.losses.weights import LOCAL_IMBALANCE
from nnunetv2_airway.trainers.branch_weighted import nnUNetTrainerWingsBranchWeighted
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings
from nnunetv2_airway.trainers.wings_lib import nnUNetTrainerLIB, nnUNetTrainerWingsLIB
from nnunetv2_airway.training.networks import WingsNetRow
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, Phase

SMALL = dict(plans_patch_size=(32, 48, 32), plans_batch_size=2, patches_per_case=1)


class SmallLIB(nnUNetTrainerLIB):
    phases = (Phase(1, DICE), Phase(1, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM))


for name, value in SMALL.items():
    setattr(SmallLIB, name, value)


def test_the_recipe_on_nnunet_s_network_differs_in_the_network_alone(make, tiny):
    planned, wings = make(nnUNetTrainerLIB, tiny), make(nnUNetTrainerWingsLIB, tiny)
    for trainer in (planned, wings):
        trainer.initialize()
    assert planned.phases == wings.phases and planned.map_names == wings.map_names == ("centerline",)
    assert planned.configuration_manager.batch_size == wings.configuration_manager.batch_size == 32
    assert type(planned.optimizer) is type(wings.optimizer) and planned.initial_lr == wings.initial_lr == 1e-4
    # the strides of nnU-Net's network multiply to (8, 16, 16) here, of 40 x 72 x 64 voxels
    assert planned.configuration_manager.patch_size == [40, 64, 64]
    assert wings.configuration_manager.patch_size == [40, 72, 64]
    body = planned.network.body
    assert type(body).__name__ == "PlainConvUNet"
    assert body.encoder.stages[0][0].convs[0].conv.in_channels == 2, "the two windows"


def test_a_patch_that_the_strides_do_not_divide_is_refused(make, tiny):
    class Odd(SmallLIB):
        plans_patch_size = (32, 40, 32)

    with pytest.raises(ValueError, match=r"multiples of \(8, 16, 16\).*got \(32, 40, 32\)"):
        make(Odd, tiny)


def test_deep_supervision_is_kept_and_switched(make, tiny):
    trainer = make(SmallLIB, tiny)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    ct = torch.full((1, 1, 32, 48, 32), -800.0)
    outputs = trainer.network(ct)
    scales = trainer._get_deep_supervision_scales()
    assert [list(output.shape[2:]) for output in outputs] == [
        [round(s * n) for s, n in zip(scale, (32, 48, 32), strict=True)] for scale in scales
    ]
    assert len(outputs) == 4 and outputs[0].shape[1] == 2
    # half as much at each lower resolution, nothing at the lowest
    assert trainer.output_weights() == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    trainer.set_deep_supervision_enabled(False)
    assert torch.equal(trainer.network.eval()(ct), trainer.network.eval()(ct)) and trainer.network(ct).ndim == 5


def test_the_loss_sees_the_weights_of_full_resolution_at_each_lower_one(make, tiny):
    trainer = make(SmallLIB, tiny)
    trainer.initialize()
    trainer.current_epoch = 1
    loss = trainer._build_loss().eval()
    trainer.current_epoch = 0
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    *labels, closeness = batch["target"]
    assert len(labels) == 4 and closeness.shape == labels[0].shape and closeness.dtype == torch.uint8
    # drawn, so that no patch is empty
    labels[0].zero_()
    labels[0][:, :, 8:20, 10:30, 5:16] = 1
    labels[0][:, :, 20:30, 20:23, 10:13] = 1
    picked = [labels[0]]
    for label in labels[1:]:
        at = [
            ((np.arange(n) + 0.5) * full / n).astype(int) for n, full in zip(label.shape[2:], (32, 48, 32), strict=True)
        ]
        label.copy_(labels[0][:, :, at[0]][:, :, :, at[1]][..., at[2]])
        picked.append(at)
    outputs = [torch.randn(len(label), 2, *label.shape[2:]) for label in labels]
    weight = local_imbalance_weight(labels[0], exponent=2.5)
    expected = 0
    for index, (factor, output, label) in enumerate(zip((4 / 7, 2 / 7, 1 / 7), outputs, labels, strict=False)):
        own = weight
        if index:
            at = picked[index]
            own = weight[:, :, at[0]][:, :, :, at[1]][..., at[2]]
        prob = torch.sigmoid(output[:, 1:] - output[:, :1])
        expected += factor * union_loss(prob, label, own, alpha=1, beta=1, root=2).item()
    assert loss(outputs, [*labels, closeness]).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "partition",
    [name if name in ("wings", "decoder") else pytest.param(name, marks=pytest.mark.slow) for name in PARTITIONS],
)
def test_every_partition_by_one_argument(make, partition):
    class Partition(nnUNetTrainerWings):
        plans_patch_size = (24, 32, 32)
        plans_batch_size = 2
        patches_per_case = 1

    Partition.network = WingsNetRow(partition)
    trainer = make(Partition)
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert len(trainer.network(batch["data"])) == len(PARTITIONS[partition])
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    assert np.isfinite(trainer.train_step(batch)["loss"])
    # every block is supervised, directly or through what comes after it
    moved = [not torch.equal(old, new) for old, new in zip(before, trainer.network.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    predicting = Partition.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, enable_deep_supervision=False
    )
    predicting.load_state_dict(trainer.network.state_dict())


@pytest.mark.parametrize("ddp", [False, True])
def test_resolutions_weigh_as_in_stock_nnunet(make, tiny, monkeypatch, ddp):
    stock, ours = make(nnUNetTrainer, tiny), make(SmallLIB, tiny)
    for trainer in (stock, ours):
        trainer.is_ddp = ddp
    monkeypatch.setenv("nnUNet_compile", "f")
    assert ours.output_weights() == pytest.approx(stock._build_loss().weight_factors, rel=1e-9)
    assert (ours.output_weights()[-1] > 0) == ddp, "every parameter needs a gradient under DDP"


def test_each_map_arrives_under_its_own_name(make):
    class Branches(nnUNetTrainerWingsBranchWeighted):
        plans_patch_size = (40, 72, 64)
        plans_batch_size = 1

    trainer = make(Branches)
    assert trainer.map_names == ("centerline", "branches")
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_val)
    (label,), maps = trainer.loss.unpack(batch["target"])
    assert maps["centerline"].dtype == torch.uint8 and maps["branches"].dtype == torch.int16
    (case,) = trainer.dataloader_val.data_loader._data.identifiers
    stores = trainer.dataloader_val.data_loader._data.maps
    assert (maps["centerline"] == 255).sum() == len(stores["centerline"].read(case).points["centerline"]) > 20
    assert (maps["branches"][label == 1] > 0).all()
    assert maps["branches"].max() == stores["branches"].read(case).values[:].max() < 100
