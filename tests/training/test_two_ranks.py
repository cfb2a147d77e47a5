"""Preparation, batches and a training step of a trainer in two processes, against one process with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from fixtures.trainers import ONE_CONVOLUTION
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_airway.architectures.airway_network import FLOAT32_VARIABLE
from nnunetv2_airway.losses.rows import AIIB23, DICE
from nnunetv2_airway.losses.weights import BREAKAGE, LOCAL_IMBALANCE, MISSED_CENTERLINE
from nnunetv2_airway.training.airway_trainer import AirwayTrainer
from nnunetv2_airway.training.ranks import barrier
from nnunetv2_airway.training.schedule import HARD_SMALL_RANDOM, Phase

DATASET = "Dataset599_AirwayPhantom"


class TwoRanks(AirwayTrainer):
    network = ONE_CONVOLUTION
    plans_patch_size = (24, 32, 32)
    plans_batch_size = 4
    mining_step_size = 1.0
    phases = (Phase(1, DICE), Phase(1, AIIB23, (LOCAL_IMBALANCE, MISSED_CENTERLINE, BREAKAGE), HARD_SMALL_RANDOM))


def one_rank(rank: int, ranks: int, folder: Path) -> None:
    preprocessed = Path(os.environ["nnUNet_preprocessed"], DATASET)
    plans, dataset = (json.loads((preprocessed / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    torch.manual_seed(0)
    # nnU-Net's ranks are on GPUs; on the CPU the trainer is made first and joins the others afterwards
    trainer = TwoRanks({**plans, "continue_training": False}, "3d_fullres", 0, dataset, torch.device("cpu"))
    trainer.initialize()
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
        trainer.is_ddp, trainer.local_rank, trainer.batch_size = True, rank, 4 // ranks
        trainer.network = DistributedDataParallel(trainer.network)
    network = trainer.network.module if ranks > 1 else trainer.network
    trainer.logger.log("epoch_start_timestamps", 100.0 + rank, 0)
    trainer.current_epoch = 1
    mined = []
    predict = network.forward

    def forward(x):
        mined.append(len(x))
        return predict(x)

    network.forward = forward
    trainer.prepare_phase()
    training, _ = trainer.datasets
    windows = [len(mined)]
    # once more, with one case to do: the other rank has none
    victim = Path(trainer.output_folder, "hard_regions", f"{training.identifiers[0]}.npz")
    barrier()
    if rank == 0:
        victim.unlink()
    barrier()
    trainer.prepare_phase()
    again, _ = trainer.datasets
    train, _ = trainer.get_dataloaders()
    loader = train.data_loader
    windows.append(len(mined) - windows[0])
    loss = step(trainer, rank, ranks)
    print(
        json.dumps(
            {
                "cases": training.identifiers,
                "first": windows[0],
                "second": windows[1],
                "maps": [
                    {case: data.load_case(case)[1][:, :, :, :][3:].sum((1, 2, 3)).tolist() for case in data.identifiers}
                    for data in (training, again)
                ],
                "hard": [{case: voxels.tolist() for case, voxels in data.hard.items()} for data in (training, again)],
                "ddp": trainer._build_loss().ddp,
                "whole batch": loader.whole_batch,
                "kinds": [loader.get_do_oversample(index) for index in range(4 // ranks)],
                "loss": loss,
                "gradients": [float(values.grad.double().norm()) for values in network.parameters()],
            }
        )
    )
    if ranks > 1:
        dist.destroy_process_group()


def step(trainer: TwoRanks, rank: int, ranks: int) -> float:
    """Train on this rank's part of one and the same batch of four patches, and return the loss."""
    drawn = torch.Generator().manual_seed(1)
    shape = (4, 1, *TwoRanks.plans_patch_size)
    ct = torch.rand(shape, generator=drawn) * 1200 - 1100
    label = (torch.rand(shape, generator=drawn) < torch.tensor([0.5, 0.1, 0.01, 0.0]).reshape(4, 1, 1, 1, 1)).float()
    mine = slice(rank * 4 // ranks, (rank + 1) * 4 // ranks)
    trainer.set_deep_supervision_enabled(True)
    trainer.network.eval()  # without dropout
    trainer.loss = trainer._build_loss().eval()  # samples no exponents
    trainer.pictured_phase = 2
    maps = [torch.randint(0, 256, shape, generator=drawn, dtype=torch.uint8)[mine] for _ in trainer.map_names]
    return float(trainer.train_step({"data": ct[mine], "target": [label[mine], *maps]})["loss"])


@pytest.mark.slow
def test_two_ranks_mine_the_same_set_share_the_batch_and_wait_for_each_other(workspace, tmp_path, variables):
    environment = {**variables(workspace), "nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1", FLOAT32_VARIABLE: "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])  # for the fixtures

    def start(rank: int, ranks: int) -> subprocess.Popen:
        line = [sys.executable, __file__, str(rank), str(ranks), str(tmp_path)]
        results = {"nnUNet_results": str(tmp_path / str(ranks))}
        return subprocess.Popen(line, env={**environment, **results}, stdout=subprocess.PIPE, text=True)

    processes = [start(0, 2), start(1, 2), start(0, 1)]
    *said, alone = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in processes]
    assert said[0]["cases"] == said[1]["cases"] and len(said[0]["cases"]) == 4
    assert said[0]["hard"] == said[1]["hard"] and said[0]["hard"][0] == said[0]["hard"][1]
    assert set(said[0]["hard"][0]) == set(said[0]["cases"])
    assert said[0]["hard"] == alone["hard"], "as one process mines"
    assert said[0]["maps"] == said[1]["maps"] == alone["maps"] and max(map(max, alone["maps"][0].values())) > 0
    # the cases are of one size, and each rank mines half of them
    assert said[0]["first"] == said[1]["first"] == alone["first"] / 2 > 0
    assert said[0]["second"] == said[0]["first"] / 2 and said[1]["second"] == 0
    assert all(one["ddp"] for one in said) and not alone["ddp"]
    assert all(one["whole batch"] == 4 for one in (*said, alone))
    shares = ["hard", "hard", "random", "small"]
    assert sorted(said[0]["kinds"] + said[1]["kinds"]) == sorted(alone["kinds"]) == shares
    assert said[0]["loss"] == said[1]["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert said[0]["gradients"] == said[1]["gradients"] == pytest.approx(alone["gradients"], rel=1e-3, abs=1e-7)


if __name__ == "__main__":  # one rank, started by the test above
    one_rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
