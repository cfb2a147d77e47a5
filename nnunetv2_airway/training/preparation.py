"""What a phase needs on disk before it can be trained: cases that can be read, maps, mined hard regions."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_airway.training.check_cases import check_cases, declared_values, structure_values
from nnunetv2_airway.training.maps.kinds import LINE, MAPS, MINED
from nnunetv2_airway.training.maps.store import LineMaps, MapStore
from nnunetv2_airway.training.ranks import all_gather, barrier, ranks, shard
from nnunetv2_airway.training.sampling.dataset import MappedDataset
from nnunetv2_airway.training.sampling.hard_regions import HardRegions, MinedMaps


def prepare_datasets(
    trainer: nnUNetTrainer, training: nnUNetBaseDataset, validation: nnUNetBaseDataset
) -> tuple[MappedDataset, MappedDataset]:
    """Make the data sets of a ``PhasedTrainer``'s current phase, with all that they need on disk.

    Args:
        trainer: whose phase it is.
        training: nnU-Net's data set of the cases to train on.
        validation: of those to validate on.

    Raises:
        RuntimeError, UserError: preprocessed cases cannot be trained on, see ``check_cases``.
    """
    check_cases(trainer, training, validation)
    of_labels = {name: _prepare_maps(trainer, name, training, validation) for name in trainer.map_names if name in MAPS}
    readers = {LINE: LineMaps(of_labels["centerline"]), **of_labels} if LINE in trainer.map_names else of_labels
    maps = {name: readers.get(name) for name in trainer.map_names}
    hard, mined = {}, {}
    if trainer.phase.mines:
        regions, hard = _prepare_hard_regions(trainer, training, of_labels["centerline"])
        mined = {name: MinedMaps(regions, name) for name in regions.map_names}
    return (
        MappedDataset(training, {**maps, **mined}, trainer.phase.sampling, hard),
        MappedDataset(validation, maps, trainer.validation_sampling),
    )


def _prepare_maps(trainer: nnUNetTrainer, name: str, *datasets: nnUNetBaseDataset) -> MapStore:
    """Compute the maps of a kind that some data sets lack, shared out over the ranks, and return the store of all.

    They lie beside the preprocessed cases, or where nothing can be written there, beside the results of all trainers.
    """
    maps = MapStore(
        Path(trainer.preprocessed_dataset_folder),
        tuple(trainer.configuration_manager.spacing),
        structure_values(trainer.label_manager),
        name,
    )
    cases = sorted({case for dataset in datasets for case in dataset.identifiers})
    missing = maps.missing(cases)
    if missing and not maps.is_writable():
        maps = replace(maps, beside=Path(trainer.output_folder_base).parent)
        missing = maps.missing(cases)
    if missing:
        trainer.print_to_log_file(f"Computing the {maps.kind.title} of {len(missing)} cases in {maps.folder}")
    processes = min(default_num_processes, os.cpu_count() or 1) // ranks()
    maps.prepare(
        datasets[0],
        shard(missing),
        declared=declared_values(trainer.label_manager),
        processes=processes,
        progress=trainer.local_rank == 0,
    )
    barrier()
    return maps


def _prepare_hard_regions(
    trainer: nnUNetTrainer, training: nnUNetBaseDataset, maps: MapStore
) -> tuple[HardRegions, dict[str, np.ndarray]]:
    """Mine the hard regions that this training has not mined yet, shared out over the ranks.

    Returns:
        Where they are, and the mined voxels (N, 3) of all training cases by name.
    """
    # the start of its first epoch names a training: checkpoints carry it on
    run = all_gather(str(trainer.logger.get_value("epoch_start_timestamps", step=0)))[0]
    mined = tuple(name for name in trainer.map_names if name in MINED)
    store = HardRegions(Path(trainer.output_folder, "hard_regions"), maps, run, mined)
    missing = store.missing(training.identifiers)
    if missing:
        trainer.print_to_log_file(f"Mining hard regions: the network predicts {len(missing)} training cases once.")
    trainer.set_deep_supervision_enabled(False)
    store.mine(
        shard(missing),
        lambda case: training.load_case(case)[:2],
        _predictor(trainer).predict_sliding_window_return_logits,
        progress=trainer.local_rank == 0,
    )
    trainer.set_deep_supervision_enabled(True)
    barrier()
    hard = {case: store.read(case) for case in training.identifiers}
    missed, line = (
        sum(map(len, voxels)) for voxels in (hard.values(), (maps.read(case).points["centerline"] for case in hard))
    )
    trainer.print_to_log_file(
        f"Hard regions: {missed} of {line} centerline voxels ({missed / max(line, 1):.1%}) in {len(hard)} training "
        f"cases were missed ({len(missing)} cases mined now)."
    )
    return store, hard


def _predictor(trainer: nnUNetTrainer) -> nnUNetPredictor:
    predictor = nnUNetPredictor(
        trainer.mining_step_size,
        use_mirroring=False,
        perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.bare_network,  # DDP's forward pass would wait for ranks that may have no case
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    return predictor
