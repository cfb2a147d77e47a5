"""The schedule of a training: rows that read like the papers' tables, and the phase as a function of the epoch.

Papers: Tang 2022, section 2.1 (three phases; shares of hard-region, small-airway and random patches); Zheng 2021,
section IV-B (steps of the learning rate, labels cut after interpolation).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from nnunetv2_airway.losses.rows import Loss, SumOfLosses, terms_of
from nnunetv2_airway.losses.weights import Weight
from nnunetv2_airway.training.maps.kinds import LINE, MINED


@dataclass(frozen=True)
class Sampling:
    """Shares of a batch by what a patch must hold; they add up to 1.

    Args:
        hard: a centerline voxel that the network missed when hard regions were mined.
        small: a centerline voxel of a small airway, nearer than 2 voxels to the background.
        centerline: any centerline voxel; not in the papers, for patches so small that random ones are mostly empty.
        random: nothing.

    Raises:
        ValueError: a negative share, or shares that do not add up to 1.
    """

    hard: float = 0.0
    small: float = 0.0
    centerline: float = 0.0
    random: float = 0.0

    def __post_init__(self):
        shares = astuple(self)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"shares of at least 0 that add up to 1 are needed, got {self}")

    def kinds(self, batch_size: int, offset: float, *, rank: int = 0, ranks: int = 1) -> list[str]:
        """Name the kind of each patch of a batch.

        Args:
            batch_size: of the whole batch, over all ranks.
            offset: sampled uniformly from [0, 1), decides on the patches that the shares leave open, such as the one of
                a batch of 1.
            rank: which part of the batch: its patches are number ``rank``, ``rank + ranks``, ... of the whole.
            ranks: parts of the batch.

        Returns:
            Names of this class's fields. Each kind has its share of the whole batch, rounded up or down where that is
            not a whole number, and exactly the share on average over ``offset``.

        >>> Sampling(hard=0.5, small=0.25, random=0.25).kinds(4, offset=0.1)
        ['hard', 'hard', 'small', 'random']
        """
        ends = np.round(np.cumsum(astuple(self)) * batch_size, 6)
        found = np.searchsorted(ends, np.arange(rank, batch_size, ranks) + offset, side="right")
        names = [field.name for field in fields(self)]
        return [names[min(index, len(names) - 1)] for index in found]

    def __str__(self):
        shares = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{share:.0%} {name}" for name, share in shares.items() if share)


RANDOM = Sampling(random=1)
HARD_SMALL_RANDOM = Sampling(hard=0.5, small=0.25, random=0.25)
"""Tang 2022, section 2.1."""
HARD_RANDOM = Sampling(hard=0.5, random=0.5)
"""Zheng 2021, section IV-B."""

GAMMA = 0.1
"""What a milestone multiplies the learning rate by (Zheng 2021, section IV-B)."""


@dataclass(frozen=True)
class Phase:
    """One row of a schedule.

    Args:
        epochs: how long the phase lasts.
        loss: a row of ``losses.rows``, or a sum of several.
        weights: terms of a voxel's weight in the loss, added up; none is 1 everywhere.
        sampling: shares of a batch; None leaves them to nnU-Net, which has a third of the patches hold foreground.
        lr_milestones: epochs of this phase, counted from 0, from which on the learning rate is divided by 10 once more.
        label_cut: share of foreground that a voxel needs to be foreground after its label has been interpolated in
            augmentation, from one half (nnU-Net's) up; more narrows the airways.

    Raises:
        ValueError: fewer than 1 epoch, a loss or weights that are no rows, milestones that do not rise or lie outside
            the phase, a cut outside [0.5, 1].
    """

    epochs: int
    loss: Loss | SumOfLosses
    weights: tuple[Weight, ...] = ()
    sampling: Sampling | None = RANDOM
    lr_milestones: tuple[int, ...] = ()
    label_cut: float = 0.5

    def __post_init__(self):
        if not hasattr(self.loss, "sums") and not isinstance(self.loss, SumOfLosses):
            raise ValueError(f"a loss of nnunetv2_airway.losses.rows is needed, such as DICE; got {self.loss!r}")
        if not isinstance(self.weights, tuple) or not all(hasattr(row, "weigh") for row in self.weights):
            raise ValueError(
                f"a tuple of weights of nnunetv2_airway.losses.weights is needed, such as (LOCAL_IMBALANCE,) with its "
                f"comma; got {self.weights!r}"
            )
        if self.epochs < 1:
            raise ValueError(f"a phase needs at least 1 epoch, got {self}")
        rising = list(self.lr_milestones) == sorted(set(self.lr_milestones))
        if not rising or not all(0 < milestone < self.epochs for milestone in self.lr_milestones):
            raise ValueError(
                f"lr_milestones that rise and lie between 0 and the {self.epochs} epochs are needed, got {self}"
            )
        if not 0.5 <= self.label_cut <= 1:
            raise ValueError(f"a label_cut from 0.5 to 1 is needed, got {self}")

    @property
    def map_names(self) -> set[str]:
        """The maps that its loss and weights need."""
        return {row.map_name for row in (*terms_of(self.loss), *self.weights)} - {None}

    @property
    def mines(self) -> bool:
        """Whether it needs predictions of an earlier phase's network, for patches or for maps."""
        return bool(self.map_names & set(MINED)) or (self.sampling is not None and self.sampling.hard > 0)

    def __str__(self):
        weights = " + ".join(row.name for row in self.weights) or "none"
        words = [f"loss {self.loss.name}", f"weights {weights}", f"patches {self.sampling or 'as nnU-Net'}"]
        if self.lr_milestones:
            words.append(f"learning rate / 10 at its epochs {', '.join(map(str, self.lr_milestones))}")
        if self.label_cut > 0.5:
            words.append(f"labels cut at {self.label_cut}")
        return "; ".join(words)


def check_schedule(phases: Sequence[Phase]) -> None:
    """Refuse a schedule that cannot be trained.

    Raises:
        ValueError: no tuple of phases, or a first phase that needs hard regions.
    """
    if not isinstance(phases, Sequence) or not phases or not all(isinstance(row, Phase) for row in phases):
        raise ValueError(
            f"a schedule of at least one Phase is needed, such as phases = (Phase(100, DICE),) with its comma; got "
            f"{phases!r}"
        )
    if phases[0].mines:
        raise ValueError(
            f"the first phase cannot sample hard regions, or weigh what was missed ({phases[0]}): they are what the "
            f"network of an earlier phase misses. Begin with a phase that does not."
        )


def phase_at(phases: Sequence[Phase], epoch: int) -> int:
    """Return the index of the phase that an epoch (counted from 0) belongs to.

    >>> from nnunetv2_airway.losses.rows import DICE
    >>> phase_at((Phase(100, DICE), Phase(5, DICE)), 100)
    1

    Raises:
        ValueError: the epoch lies outside the schedule.
    """
    ends = np.cumsum([phase.epochs for phase in phases])
    if not 0 <= epoch < ends[-1]:
        raise ValueError(f"epoch {epoch} lies outside the schedule of {ends[-1]} epochs")
    return int(np.searchsorted(ends, epoch, side="right"))


def first_epoch(phases: Sequence[Phase], index: int) -> int:
    """Return the first epoch of a phase; for the number of phases, the length of the whole schedule."""
    return sum(phase.epochs for phase in phases[:index])


def learning_rate_factor(phases: Sequence[Phase], epoch: int) -> float:
    """Return what the milestones make of the learning rate in an epoch; each phase begins with 1.

    Raises:
        ValueError: the epoch lies outside the schedule.
    """
    index = phase_at(phases, epoch)
    within = epoch - first_epoch(phases, index)
    return GAMMA ** sum(milestone <= within for milestone in phases[index].lr_milestones)


def needed_maps(phases: Sequence[Phase], validation_sampling: Sampling | None) -> set[str]:
    """Name the maps that the weights of a schedule and the patches of training and validation need."""
    needed = set().union(*(phase.map_names for phase in phases))
    samplings = (validation_sampling, *(phase.sampling for phase in phases))
    chosen = any(sampling is not None and sampling.random < 1 for sampling in samplings)
    return needed | {"centerline"} if chosen or needed & {LINE, *MINED} else needed


def describe(phases: Sequence[Phase], index: int) -> str:
    """Say which phase of a schedule one is, which epochs it has, and what it does."""
    first, next_one = (first_epoch(phases, i) for i in (index, index + 1))
    return f"Phase {index + 1} of {len(phases)}, epochs {first} to {next_one - 1}: {phases[index]}"
