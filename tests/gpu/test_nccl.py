"""One process of DDP over NCCL, through a phase with mining."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from fixtures.trainers import drawn_batch, ready, short_trainer
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_airway.nnunet_ext import airway_trainers
from nnunetv2_airway.training import ranks

pytestmark = pytest.mark.gpu


@pytest.fixture
def one_rank(gpu, tmp_path, monkeypatch):
    """The function that makes this process the only one of DDP, whatever network there is."""
    for library in ("GLOO", "NCCL"):
        monkeypatch.setenv(f"{library}_SOCKET_IFNAME", "lo")

    def begin():
        torch.cuda.set_device(gpu)
        dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)

    yield begin
    if dist.is_initialized():
        dist.destroy_process_group()
    ranks._patient_group.cache_clear()


def test_one_process_of_ddp_trains_as_a_process_without(gpu, make, one_rank, without_pictures):
    phases = tuple(replace(phase, epochs=1) for phase in airway_trainers.nnUNetTrainerWingsLIBRoot.phases)
    cls = short_trainer(
        "nnUNetTrainerWingsLIBRoot", phases=phases, plans_patch_size=(32, 48, 32), plans_batch_size=2,
        patches_per_case=1, mining_step_size=1.0,
    )  # fmt: skip
    alone = ready(make(cls, device=gpu))
    one_rank()
    trainer = make(cls, device=gpu)
    assert trainer.is_ddp
    trainer.initialize()
    assert isinstance(trainer.network, DistributedDataParallel)
    trainer.on_train_start()
    trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 2
    for _ in phases:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val)) for _ in range(2)])
        trainer.on_epoch_end()
    assert trainer.current_epoch == 3 and len(trainer.datasets[0].hard) == 4
    alone.network.load_state_dict(trainer.bare_network.state_dict())
    losses = [float(ready(one, 2).train_step(drawn_batch(one, 0))["loss"]) for one in (trainer, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
