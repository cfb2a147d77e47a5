"""The processes of a training: one, or the ranks of DDP. Everything works without DDP too."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Return this process's number, 0 without DDP."""
    return dist.get_rank() if _is_ddp() else 0


def of_all_ranks(value: T) -> list[T]:
    """Return every rank's value, by rank; all call this together."""
    if not _is_ddp():
        return [value]
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def my_share(items: list[T]) -> list[T]:
    """Return this rank's share of the first rank's list; all call this together."""
    return of_all_ranks(items)[0][rank() :: dist.get_world_size() if _is_ddp() else 1]


def wait_for_all() -> None:
    """Go on when all ranks have come here."""
    if _is_ddp():
        dist.barrier()


def _is_ddp() -> bool:
    return dist.is_available() and dist.is_initialized()
