"""What this plugin relies on inside nnU-Net and its libraries.

After an upgrade of nnU-Net these tests fail first, and each failure says what moved.
"""

import hashlib
import inspect
import os

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2 import paths
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIOWithReorient
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from skimage.morphology import skeletonize


def test_trainer_folders_are_read_from_the_variable_when_needed(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerOfAUser(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path / "a"), str(tmp_path)]))
    assert paths.nnUNet_extTrainer.get() == os.environ["nnUNet_extTrainer"]
    found = recursive_find_trainer_class_by_name("nnUNetTrainerOfAUser")
    assert found.__name__ == "nnUNetTrainerOfAUser", "nnU-Net no longer searches every folder of nnUNet_extTrainer"


def test_constructor_arguments():
    names = list(inspect.signature(nnUNetTrainer.__init__).parameters)
    assert names == ["self", "plans", "configuration", "fold", "dataset_json", "device"], (
        "nnUNetTrainer.__init__ has other arguments; PhasedTrainer.__init__ must take exactly these"
    )
    assert 'plans.pop("continue_training")' in inspect.getsource(nnUNetTrainer.__init__), (
        "the trainer no longer takes continue_training out of the plans; tests hand it over that way"
    )


def test_network_factory():
    names = list(inspect.signature(nnUNetTrainer.build_network_architecture).parameters)
    assert names == [
        "plans_manager",
        "configuration_manager",
        "num_input_channels",
        "num_output_channels",
        "enable_deep_supervision",
    ], "build_network_architecture has another signature; AirwayTrainer overrides it"
    source = inspect.getsource(nnUNetPredictor.initialize_from_trained_model_folder)
    assert "trainer_class.build_network_architecture(" in source and "enable_deep_supervision=False" in source, (
        "the predictor no longer builds the network through the trainer class, without deep supervision"
    )


def test_hooks_that_airway_trainer_overrides_are_still_called():
    callers = {
        "self._get_deep_supervision_scales()": nnUNetTrainer.get_dataloaders,
        "self.get_training_transforms(": nnUNetTrainer.get_dataloaders,
        "self.get_tr_and_val_datasets()": nnUNetTrainer.get_dataloaders,
        "self.configure_optimizers()": nnUNetTrainer.initialize,
        "self._build_loss()": nnUNetTrainer.initialize,
        "self._set_batch_size_and_oversample()": nnUNetTrainer.initialize,
        "self.set_deep_supervision_enabled(": nnUNetTrainer.on_train_start,
        "self.train_step(": nnUNetTrainer.run_training,
        "self.num_iterations_per_epoch": nnUNetTrainer.run_training,
        "self.num_val_iterations_per_epoch": nnUNetTrainer.run_training,
        "self.save_every": nnUNetTrainer.on_epoch_end,
        "torch.save(checkpoint, filename)": nnUNetTrainer.save_checkpoint,
        "self.network(data)": nnUNetTrainer.train_step,
        "self.on_epoch_start()": nnUNetTrainer.run_training,
        "self.initialize()": nnUNetTrainer.on_train_start,
        "self.lr_scheduler.step(self.current_epoch)": nnUNetTrainer.on_train_epoch_start,
        "self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()": nnUNetTrainer.get_dataloaders,
        "next(self.dataloader_train)": nnUNetTrainer.run_training,
        "self.on_train_epoch_start()": nnUNetTrainer.run_training,
        "self.on_validation_epoch_start()": nnUNetTrainer.run_training,
        "self.on_validation_epoch_end(val_outputs)": nnUNetTrainer.run_training,
        "self.dataloader_train._finish()": nnUNetTrainer.on_train_end,
        "self.get_dataloaders()": nnUNetTrainer.on_train_start,
        "self.get_validation_transforms(": nnUNetTrainer.get_dataloaders,
        "nnUNetDataLoader(dataset_tr, self.batch_size,": nnUNetTrainer.get_dataloaders,
        "nnUNetDataLoader(dataset_val, self.batch_size,": nnUNetTrainer.get_dataloaders,
        "output = self.network(data)": nnUNetTrainer.validation_step,
        "self.logger.get_value('ema_fg_dice', step=-1) > self._best_ema": nnUNetTrainer.on_epoch_end,
        "% self.save_every == 0": nnUNetTrainer.on_epoch_end,
        "self.current_epoch -= 1": nnUNetTrainer.on_train_end,
        "'current_epoch': self.current_epoch + 1": nnUNetTrainer.save_checkpoint,
        "self.loss(output, target)": nnUNetTrainer.train_step,
        "if not self.was_initialized:": nnUNetTrainer.on_train_start,
        "self.grad_scaler.unscale_(self.optimizer)": nnUNetTrainer.train_step,
        "save_json(": nnUNetTrainer.do_split,
    }
    missing = [call for call, caller in callers.items() if call not in inspect.getsource(caller)]
    assert not missing, f"nnUNetTrainer no longer does: {missing}"


def test_hyperparameters_are_set_on_the_instance_and_have_values():
    names = (
        "initial_lr", "weight_decay", "save_every", "num_epochs", "num_iterations_per_epoch",
        "num_val_iterations_per_epoch", "oversample_foreground_percent", "probabilistic_oversampling",
    )  # fmt: skip
    source = inspect.getsource(nnUNetTrainer.__init__)
    missing = [name for name in names if f"self.{name} = " not in source or hasattr(nnUNetTrainer, name)]
    assert not missing, f"training.attributes relies on nnUNetTrainer.__init__ to set {missing} on the instance"
    assert "self.network = None" in source, (
        "apply_class_attributes would take the row of a network for a hyperparameter"
    )


def test_validation_reads_the_first_output_and_target():
    source = inspect.getsource(nnUNetTrainer.validation_step)
    assert "output = output[0]" in source and "target = target[0]" in source, (
        "under deep supervision the pseudo Dice no longer takes the first output, which is our decoding group"
    )


def test_the_loader_asks_for_each_patch_and_hands_the_answer_to_get_bbox():
    source = inspect.getsource(nnUNetDataLoader.generate_train_batch)
    assert "force_fg = self.get_do_oversample(j)" in source, (
        "the loader no longer asks get_do_oversample for each patch"
    )
    assert "self.get_bbox(shape, force_fg, properties['class_locations'])" in source, (
        "get_bbox no longer receives the kind of patch and the voxels by kind"
    )
    assert "data, seg, seg_prev, properties = self._data.load_case(i)" in source, "MappedDataset.load_case is not used"
    assert "crop_and_pad_nd(seg, bbox, -1, cast_cropped_to=np.int16)" in source, (
        "labels are padded or cast in another way, and the maps with them: TakeMapsFromLabel, maps.numbers.MAX_NUMBER"
    )
    assert "for s_idx, s in enumerate(seg_sample)" in source, "lists of targets are no longer collated"


def test_the_final_patch_is_the_middle_of_the_initial_one():
    image = torch.arange(11 * 14 * 9).view(1, 11, 14, 9).float()
    final = (8, 7, 4)
    out = SpatialTransform(final, 0, False, p_rotation=0, p_scaling=0)(image=image)["image"]
    low = [initial // 2 - size // 2 for initial, size in zip(image.shape[1:], final, strict=True)]
    expected = image[(0, *(slice(a, a + size) for a, size in zip(low, final, strict=True)))]
    assert torch.equal(out[0], expected), "patch_around computes another place for the final patch"


def test_the_spatial_transform_moves_labels_by_the_nearest_voxel_where_told_to():
    transform = SpatialTransform((6, 7, 8), 0, False, p_rotation=1, rotation=(0.2, 0.3))
    numbers = torch.randint(0, 9, (1, 10, 12, 14)).float()
    params = transform.get_parameters(image=numbers)
    assert params["grid"] is not None, "SpatialWithMaps cannot tell any more whether a patch is interpolated"
    transform.mode_seg = "nearest"
    moved = transform._apply_to_segmentation(numbers, **params)
    assert moved.dtype == numbers.dtype and set(moved.unique().tolist()) <= set(range(9)), (
        "SpatialTransform no longer reads mode_seg when it is called; SpatialWithMaps sets it on a copy"
    )
    assert transform._apply_to_image(numbers, **params).unique().numel() > 100


def test_the_log_takes_more_figures_and_checkpoints_carry_them(tmp_path):
    logger = MetaLogger(str(tmp_path), False)
    logger.local_logger.my_fantastic_logging.update({"ours": []})
    logger.log("ours", 0.5, 0)
    assert logger.get_checkpoint()["ours"] == [0.5], "the logger refuses or forgets figures of our own"


def test_sliding_window_prediction_is_there_for_a_network_at_hand():
    names = list(inspect.signature(nnUNetPredictor.manual_initialization).parameters)
    assert names[1:] == [
        "network",
        "plans_manager",
        "configuration_manager",
        "parameters",
        "dataset_json",
        "trainer_name",
        "inference_allowed_mirroring_axes",
    ], "nnUNetPredictor.manual_initialization has another signature; hard regions are mined with it"
    names = list(inspect.signature(nnUNetPredictor.predict_sliding_window_return_logits).parameters)
    assert names == ["self", "input_image"]


def test_the_predictor_lets_windows_be_left_out():
    names = list(inspect.signature(nnUNetPredictor._internal_predict_sliding_window_return_logits).parameters)
    assert names == ["self", "data", "slicers", "do_on_device"], (
        "AirwayPredictor leaves windows without air out of the slicers"
    )
    names = list(inspect.signature(nnUNetPredictor._internal_maybe_mirror_and_predict).parameters)
    assert names == ["self", "x"], "AirwayPredictor counts windows there"
    source = inspect.getsource(nnUNetPredictor._internal_predict_sliding_window_return_logits)
    assert "torch.div(predicted_logits, n_predictions" in source, (
        "what no window covers is no longer 0 / 0; AirwayPredictor knows it by that"
    )
    _, inside = pad_nd_image(torch.zeros(1, 5, 8), (8, 8), "constant", {"value": 0}, True, None)
    assert inside[1] == slice(1, 6), "nnU-Net pads the sides of a CT in another way than AirwayPredictor thinks"


def test_readers_that_turn_a_ct_turn_it_to_ras(tmp_path):
    image = sitk.DICOMOrient(sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5)), "PIR")
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    expected = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS"))
    for reader in (SimpleITKIOWithReorient, NibabelIOWithReorient):
        read, _ = reader().read_images([str(tmp_path / "ct.nii.gz")])
        assert np.array_equal(read[0], expected), f"{reader.__name__} turns CTs to another orientation"


def test_resampling_functions_that_published_models_name():
    data = np.zeros((1, 3, 4, 5))
    unchanged = recursive_find_resampling_fn_by_name("no_resampling_hack")
    assert unchanged(data, (6, 4, 5), (2, 1, 1), (1, 1, 1)) is data
    linear = recursive_find_resampling_fn_by_name("resample_torch_fornnunet")
    ramp = np.broadcast_to(np.arange(4.0).reshape(1, 4, 1, 1), (1, 4, 6, 6))
    doubled = linear(ramp, (8, 6, 6), (2, 1, 1), (1, 1, 1), is_seg=False, force_separate_z=False)
    np.testing.assert_allclose(doubled[0, :, 3, 3], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)


def test_preprocessed_labels_are_where_the_maps_look_for_them():
    source = inspect.getsource(nnUNetDatasetBlosc2.load_case) + inspect.getsource(nnUNetDatasetNumpy.load_case)
    assert "identifier + '_seg.b2nd'" in source and "identifier + '.npz'" in source, (
        "nnU-Net stores labels under other names; MapStore.fingerprint reads these files"
    )


def test_random_transforms_are_the_intensity_transforms():
    pipeline = nnUNetTrainer.get_training_transforms((16, 16, 16), (-0.5, 0.5), [[1.0] * 3], (0, 1, 2), True)
    assert isinstance(pipeline, ComposeTransforms)
    inner = [type(s.transform).__name__ for s in pipeline.transforms if isinstance(s, RandomTransform)]
    assert inner == [
        "GaussianNoiseTransform",
        "GaussianBlurTransform",
        "MultiplicativeBrightnessTransform",
        "ContrastTransform",
        "SimulateLowResolutionTransform",
        "GammaTransform",
        "GammaTransform",
    ], "nnU-Net's augmentation changed: check which of its steps augment_in_range must enclose"


def test_a_scale_of_one_gives_a_list_with_the_label_itself():
    label = torch.randint(0, 2, (1, 6, 8, 10)).short()
    (target,) = DownsampleSegForDSTransform([[1.0, 1.0, 1.0]])(segmentation=label)["segmentation"]
    assert torch.equal(target, label), "deep supervision scales of 1 no longer leave the label as it is"


def test_the_loader_pads_images_with_zero():
    assert "crop_and_pad_nd(data, bbox, 0)" in inspect.getsource(nnUNetDataLoader.generate_train_batch), (
        "patches that reach over the edge are no longer filled with 0 HU, as the outside of the lung box is"
    )


def test_cropping_to_nonzero_keeps_a_zero_that_tissue_encloses():
    ct = np.zeros((1, 6, 6, 6), np.float32)
    ct[0, 1:5, 1:5, 1:5] = -800
    ct[0, 2, 2, 2] = 0
    cropped, label, box = crop_to_nonzero(ct, np.zeros((1, 6, 6, 6), np.int8))
    assert cropped.shape == (1, 4, 4, 4) and (label == 0).all() and box == [[1, 5]] * 3, (
        "crop_to_nonzero no longer takes the box of everything that is not 0"
    )


def test_normalisation_names():
    names = {name: get_normalization_scheme(name).__name__ for name in ("noNorm", "CT")}
    assert names == {"noNorm": "NoNormalization", "CT": "CTNormalization"}, (
        "nnU-Net renamed its normalisations; HounsfieldScale.from_plans reads these names"
    )


def test_an_exponent_of_zero_keeps_the_learning_rate():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1e-4)
    scheduler = PolyLRScheduler(optimizer, 1e-4, 100, 0)
    rates = []
    for epoch in (0, 50, 99):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1e-4] * 3, "PolyLRScheduler no longer stays constant with exponent 0"


def test_postprocessing_functions_are_called_with_one_array():
    result = apply_postprocessing(np.arange(3), [lambda seg, add: seg + add], [{"add": 2}])
    assert result.tolist() == [2, 3, 4], "postprocessing.pkl is no longer ([functions], [keyword arguments])"


def test_a_compiled_module_lets_its_forward_be_replaced():
    module = torch.nn.Linear(2, 2)
    compiled = torch.compile(module, backend="eager")
    inner = compiled.forward
    compiled.forward = lambda x: inner(x) + 1
    x = torch.ones(1, 2)
    assert torch.allclose(compiled(x), module(x) + 1), "MicroBatches cannot replace the forward of a compiled network"


def test_thinning():
    mask = np.random.default_rng(0).random((24, 26, 28)) < 0.7
    digest = hashlib.blake2b(np.packbits(skeletonize(mask) > 0).tobytes(), digest_size=8).hexdigest()
    assert digest == "fcffec5cae9f5128", (
        "scikit-image thins differently: parse_tree no longer gives the branches of ATM'22's official evaluation"
    )


@pytest.mark.parametrize("name", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_pytorch_still_tells_whether_the_cpu_has_bfloat16(name):
    assert isinstance(bool(getattr(torch.cpu, name)()), bool)
