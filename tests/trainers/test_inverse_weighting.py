import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy import ndimage

from nnunetv2_airway.losses.functional import inverse_component_weight
from nnunetv2_airway.losses.weights import InverseWeight
from nnunetv2_airway.nnunet_ext import airway_trainers
from nnunetv2_airway.trainers.inverse_weighting import (
    LesionTrainer,
    nnUNetTrainerInverseWeightedBCE,
    nnUNetTrainerInverseWeightedDice,
    nnUNetTrainerWeightedCE,
)


def test_everything_but_the_loss_is_nnunet_s(make, tiny):
    stock, ours = make(nnUNetTrainer, tiny), make(nnUNetTrainerInverseWeightedDice, tiny)
    for trainer in (stock, ours):
        trainer.initialize()
        trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    assert ours.num_epochs == stock.num_epochs == 1000
    assert repr(ours.network) == repr(stock.network) and repr(ours.optimizer) == repr(stock.optimizer)
    assert ours.configuration_manager.configuration == stock.configuration_manager.configuration
    for name in ("num_iterations_per_epoch", "num_val_iterations_per_epoch", "inference_allowed_mirroring_axes"):
        assert getattr(ours, name) == getattr(stock, name)
    for epoch in (0, 500, 999):
        rates = []
        for trainer in (stock, ours):
            trainer.lr_scheduler.step(epoch)
            rates.append(trainer.optimizer.param_groups[0]["lr"])
        assert rates[0] == rates[1]
    np.testing.assert_allclose(ours.loss.output_weights, stock.loss.weight_factors)
    loaders = [trainer.dataloader_train.data_loader for trainer in (stock, ours)]
    assert [[loader.get_do_oversample(index) for index in range(2)] for loader in loaders] == [[False, True]] * 2
    steps = [[type(step).__name__ for step in loader.transforms.transforms] for loader in loaders]
    assert [name for name in steps[1] if "Map" not in name] == [name for name in steps[0] if name != "SpatialTransform"]


def test_patches_are_placed_as_nnunet_places_them(make, tiny):
    boxes = []
    for cls in (nnUNetTrainer, nnUNetTrainerInverseWeightedDice):
        trainer = make(cls, tiny)
        trainer.initialize()
        loader = trainer.get_dataloaders()[0].data_loader
        np.random.seed(0)
        _, _, _, properties = loader._data.load_case(loader._data.identifiers[0])
        boxes.append(
            [loader.get_bbox((90, 130, 120), force, properties["class_locations"]) for force in (False, True) * 20]
        )
    assert boxes[0] == boxes[1]


def test_the_components_of_the_whole_case_arrive_as_labels(make, tiny):
    trainer = make(nnUNetTrainerInverseWeightedBCE, tiny)
    assert trainer.map_names == ("components",)
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    *labels, components = batch["target"]
    assert batch["data"].shape[1] == 1 and components.dtype == torch.int16 and components.shape == labels[0].shape
    assert (components[labels[0] == 1] > 0).all() and (labels[0] == 1).any()
    training = trainer.dataloader_train.data_loader._data
    for case in training.identifiers:
        label = training.dataset.load_case(case)[1][0] == 1
        found = training.maps["components"].read(case).values[:] * label
        assert found.max() == ndimage.label(label, np.ones((3, 3, 3)))[1]
    # the loss by its definition: the mean of w times cross-entropy, at each resolution
    loss = trainer.loss.eval()
    with torch.no_grad():
        outputs = trainer.network(batch["data"])
    numbers = torch.where(labels[0] == 1, components, 0)
    weight = inverse_component_weight(numbers)
    z = (outputs[0][:, 1:] - outputs[0][:, :1]).double()
    first = F.binary_cross_entropy_with_logits(z, (labels[0] == 1).double(), weight).item()
    loss.output_weights = [1, 0, 0, 0]
    assert loss(outputs, batch["target"]).item() == pytest.approx(first, rel=1e-5)


def test_a_plain_loss_carries_no_map(make, tiny, tmp_path):
    trainer = make(nnUNetTrainerWeightedCE, tiny)
    assert trainer.map_names == ()
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert len(batch["target"]) == len(trainer._get_deep_supervision_scales())
    assert np.isfinite(trainer.train_step(batch)["loss"])


@pytest.mark.parametrize("region", [False, True])
def test_ignored_voxels_are_left_out(make, tiny, region):
    def loss_of(labels):
        def change(plans, dataset):
            tiny(plans, dataset)
            dataset.update(labels=labels, regions_class_order=[1])

        trainer = make(nnUNetTrainerInverseWeightedDice, change)
        trainer.initialize()
        trainer.loss.output_weights = [1]
        assert trainer.label_manager.has_regions == region
        return trainer.loss.eval()

    lesion, ignore = ([1, 2], 3) if region else (1, 2)
    shape, seen = (2, 1, 4, 5, 6), (slice(None), slice(None), slice(0, 2))
    label, numbers, z = (torch.rand(shape) > 0.6).short(), torch.randint(1, 5, shape), torch.randn(shape)
    ignored = torch.zeros(shape, dtype=torch.bool)
    ignored[:, :, 2:] = True
    target = torch.cat((label.bool(), ignored), 1) if region else torch.where(ignored, ignore, label)
    output = z if region else torch.cat((torch.zeros_like(z), z), 1)
    found = loss_of({"background": 0, "lesion": lesion, "ignore": ignore})([output], [target, numbers])
    # the same patch without the ignored planes
    alone = loss_of({"background": 0, "lesion": lesion})
    expected = alone([output[seen]], [label[seen].bool() if region else label[seen], numbers[seen]])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(make, tmp_path):
    def two(plans, dataset):
        dataset["labels"] = {"background": 0, "lesion": 1, "organ": 2}

    with pytest.raises(NotImplementedError, match=r"InverseWeightedDice segments one structure.*2 foreground"):
        make(nnUNetTrainerInverseWeightedDice, two)
    assert not list(tmp_path.iterdir())
    assert issubclass(nnUNetTrainerInverseWeightedDice, LesionTrainer)


@pytest.mark.parametrize(
    ("name", "loss", "weighted"),
    [
        ("InverseWeightedDice", ("UnionLoss", 0.5, 0.5, 1.0), True),
        ("InverseWeightedBCE", ("CrossEntropy", 0.0, None, False), True),
        ("InverseWeightedFocal", ("CrossEntropy", 2.0, 0.75, False), True),
        ("InverseWeightedAsymmetricSimilarity", ("UnionLoss", 4 / 13, 9 / 13, 1.0), True),
        ("WeightedCE", ("CrossEntropy", 0.0, None, True), False),
        ("GeneralizedDice", ("GeneralizedDice",), False),
        ("Focal", ("CrossEntropy", 2.0, 0.75, False), False),
        ("AsymmetricSimilarity", ("UnionLoss", 4 / 13, 9 / 13, 1.0), False),
    ],
)
def test_each_name_has_its_loss(name, loss, weighted):
    (phase,) = getattr(airway_trainers, f"nnUNetTrainer{name}").phases
    row, symbols = phase.loss, {"UnionLoss": ("alpha", "beta", "root"), "CrossEntropy": ("gamma", "alpha", "balanced")}
    assert (type(row).__name__, *(getattr(row, symbol) for symbol in symbols.get(loss[0], ()))) == pytest.approx(loss)
    assert phase.weights == ((InverseWeight("inverse component size", "components", 1.0, 2e5),) if weighted else ())
    assert phase.epochs == 1000 and phase.sampling is None
