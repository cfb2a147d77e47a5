"""Preparation and loss of a trainer in two processes, one of which has nothing to prepare."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_airway.losses.rows import DICE, LOCAL_IMBALANCE, TANG
from nnunetv2_airway.schedule import HARD_SMALL_RANDOM, Phase
from nnunetv2_airway.trainers.wings import nnUNetTrainerWings

DATASET = "Dataset599_AirwayPhantom"


class TwoRanks(nnUNetTrainerWings):
    plans_patch_size = (24, 32, 32)
    plans_batch_size = 4
    mining_step_size = 1.0
    phases = (Phase(1, DICE), Phase(1, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM))


def one_rank(rank: int, folder: Path) -> None:
    preprocessed = Path(os.environ["nnUNet_preprocessed"], DATASET)
    plans, dataset = (json.loads((preprocessed / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    torch.manual_seed(0)
    # nnU-Net's ranks are on GPUs; on the CPU the trainer is made first and joins the others afterwards
    trainer = TwoRanks({**plans, "continue_training": False}, "3d_fullres", 0, dataset, torch.device("cpu"))
    trainer.initialize()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    trainer.is_ddp, trainer.local_rank, trainer.batch_size = True, rank, 2
    trainer.network = DistributedDataParallel(trainer.network)
    trainer.logger.log("epoch_start_timestamps", 100.0 + rank, 0)
    trainer.current_epoch = 1
    mined = []
    predict = trainer.network.module.forward

    def forward(x):
        mined.append(len(x))
        return predict(x)

    trainer.network.module.forward = forward
    training, _ = trainer.get_tr_and_val_datasets()
    windows = len(mined)
    # once more, with one case to do: the other rank has none
    victim = Path(trainer.output_folder, "hard_regions", f"{training.identifiers[0]}.npz")
    dist.barrier()
    if rank == 0:
        victim.unlink()
    dist.barrier()
    again, _ = trainer.get_tr_and_val_datasets()
    train, _ = trainer.get_dataloaders()
    loader = train.data_loader
    print(
        json.dumps(
            {
                "cases": training.identifiers,
                "first": windows,
                "second": len(mined) - windows,
                "hard": [{case: voxels.tolist() for case, voxels in data.hard.items()} for data in (training, again)],
                "ddp": trainer._build_loss().ddp,
                "whole batch": loader.whole_batch,
                "kinds": [loader.get_do_oversample(index) for index in range(2)],
            }
        )
    )
    dist.destroy_process_group()


def test_two_ranks_mine_the_same_set_share_the_batch_and_wait_for_each_other(workspace, tmp_path, variables):
    environment = {**variables(workspace), "nnUNet_results": str(tmp_path), "nnUNet_n_proc_DA": "0"}
    environment["OMP_NUM_THREADS"] = "1"
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [json.loads(rank.communicate(timeout=300)[0].splitlines()[-1]) for rank in ranks]
    assert said[0]["cases"] == said[1]["cases"] and len(said[0]["cases"]) == 4
    assert said[0]["hard"] == said[1]["hard"] and said[0]["hard"][0] == said[0]["hard"][1]
    assert set(said[0]["hard"][0]) == set(said[0]["cases"])
    assert said[0]["first"] == said[1]["first"] > 0, "each rank mines half of the cases, which are of one size"
    assert said[0]["second"] == said[0]["first"] / 2 and said[1]["second"] == 0
    assert all(one["ddp"] and one["whole batch"] == 4 for one in said)
    assert sorted(said[0]["kinds"] + said[1]["kinds"]) == ["hard", "hard", "random", "small"]


if __name__ == "__main__":  # one rank, started by the test above
    one_rank(int(sys.argv[1]), Path(sys.argv[2]))
