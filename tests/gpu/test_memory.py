"""The batch of 32 patches of 128^3, and memory that ends."""

import gc

import pytest
import torch
from fixtures.trainers import drawn_batch, images_of, ready, short_trainer

pytestmark = pytest.mark.gpu

GIB = 2**30


def trainer_of(device, make, side: int, batch: int):
    """The recommended trainer, in its last phase, on patches of (side)^3."""
    cls = short_trainer("nnUNetTrainerWingsLIBRoot", plans_patch_size=(side, side, side), plans_batch_size=batch)
    return ready(make(cls, images_of(side, side, side), device=device))


def test_the_paper_s_batch_one_patch_at_a_time(device, make, without_pictures, capsys):
    side, batch = (32, 4) if device.type == "cpu" else (128, 32)
    trainer = trainer_of(device, make, side, batch)
    trainer.micro_batches.size = 1
    drawn = drawn_batch(trainer, 0, patches=2)
    losses = [float(trainer.train_step(drawn)["loss"])]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    losses += [float(trainer.train_step(drawn)["loss"]) for _ in range(4)]
    assert losses[-1] < losses[0] < 10  # the scaler may skip the first steps
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / GIB
        with capsys.disabled():
            print(f"\nmemory of {batch} patches of {side}^3, one at a time: {peak:.2f} GiB")
        assert peak < 12


def test_parts_have_the_loss_and_gradient_of_the_whole(device, make, without_pictures):
    side = 32 if device.type == "cpu" else 64
    found = []
    for size in (4, 1):
        trainer = trainer_of(device, make, side, 4)
        trainer.micro_batches.size = size
        loss = trainer.train_step(drawn_batch(trainer, 0))["loss"]
        found.append((float(loss), [values.grad.float() for values in trainer.network.parameters()]))
    (whole, gradients), (parts, others) = found
    assert whole == pytest.approx(parts, rel=1e-3)
    norm = torch.stack([values.norm() for values in gradients]).norm()
    apart = torch.stack([(one - other).norm() for one, other in zip(gradients, others, strict=True)]).norm()
    assert apart < 0.05 * norm


def free() -> None:
    """Give back what trainers before this one have left."""
    gc.collect()
    torch.cuda.empty_cache()


def peak_of_a_step(gpu, make, size: int) -> tuple[int, float]:
    trainer = trainer_of(gpu, make, 96, 8)
    trainer.micro_batches.size = size
    free()
    torch.cuda.reset_peak_memory_stats()
    loss = float(trainer.train_step(drawn_batch(trainer, 0))["loss"])
    return torch.cuda.max_memory_reserved(), loss


@pytest.fixture
def limited(gpu):
    """The function that limits this process's memory, in bytes."""
    total = torch.cuda.get_device_properties(gpu).total_memory
    yield lambda limit: torch.cuda.set_per_process_memory_fraction(limit / total)
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_memory_that_ends_halves_the_part_and_leaves_the_loss(gpu, make, limited, without_pictures, capsys):
    peak_of_a_step(gpu, make, 1)  # libraries have taken what they keep
    (least, _), (most, expected) = (peak_of_a_step(gpu, make, size) for size in (1, 8))
    assert most > 1.5 * least
    trainer = trainer_of(gpu, make, 96, 8)
    free()
    limited((least + most) / 2)
    loss = float(trainer.train_step(drawn_batch(trainer, 0))["loss"])
    with capsys.disabled():
        print(f"\nlimit {(least + most) / 2 / GIB:.2f} GiB of {most / GIB:.2f}: {trainer.micro_batches.size} at a time")
    assert trainer.micro_batches.size < 8
    assert loss == pytest.approx(expected, rel=1e-3)
