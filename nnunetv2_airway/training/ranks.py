"""The processes of a training: one, or the ranks of DDP. Everything works without DDP too.

Ranks prepare data for minutes to hours on their own, and not equally long. So they meet in a group of their own, on
the CPU and patient: nnU-Net's gives up after ten minutes and ends the run.
"""

from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Return this process's number, 0 without DDP."""
    return dist.get_rank() if _is_ddp() else 0


def ranks() -> int:
    """Return the number of processes, 1 without DDP."""
    return dist.get_world_size() if _is_ddp() else 1


def all_gather(value: T) -> list[T]:
    """Return every rank's value, by rank; all call this together."""
    if not _is_ddp():
        return [value]
    values: list[T] = [value] * ranks()
    dist.all_gather_object(values, value, group=_patient_group())
    return values


def shard(items: list[T]) -> list[T]:
    """Return this rank's share of the first rank's list; all call this together."""
    return all_gather(items)[0][rank() :: ranks()]


def barrier() -> None:
    """Go on when all ranks have come here."""
    all_gather(None)


def _is_ddp() -> bool:
    return dist.is_available() and dist.is_initialized()


@cache
def _patient_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))
