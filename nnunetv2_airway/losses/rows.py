"""Losses that a Phase can use; the weights of a voxel are in ``weights``.

Papers: Tang 2022 (eqs. 2 and 5), Zheng 2021 (eqs. 10 to 14), Shirokikh 2020; the winning entry to AIIB23 (MedibotTeam,
in Nan et al., Medical Image Analysis 2024). Frozen rows that hand their numbers to the equations; ``supervision`` makes
a module of them. Another loss is one more class with the methods of ``Loss``.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch

from nnunetv2_airway.losses.centerline_dice import centerline_dice_from_sums, centerline_dice_sums
from nnunetv2_airway.losses.cross_entropy import cross_entropy_from_sums, cross_entropy_sums
from nnunetv2_airway.losses.functional import (
    union_loss_from_sums,
    union_sums,
)
from nnunetv2_airway.losses.generalized_dice import generalized_dice_from_sums, generalized_dice_sums


class Loss(Protocol):
    """A loss that is a function of ``terms`` sums over voxels, so that the sums of all ranks can be added up first."""

    name: str

    @property
    def terms(self) -> int:
        """How many sums there are."""

    def sums(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None,
        annotated: torch.Tensor | None,
    ) -> torch.Tensor:
        """Sum over the voxels of a batch.

        Args:
            logits: z of the foreground, (N, 1, Z, Y, X).
            target: binary, same shape.
            weight: of each voxel, same shape; None is 1 everywhere.
            annotated: 0 on ignored voxels and 1 elsewhere, same shape, None where none is ignored; ``weight`` is 0
                there too.

        Returns:
            (terms,), in float32 or better.
        """

    def value(self, sums: torch.Tensor) -> torch.Tensor:
        """Turn the sums, added up over all ranks, into the scalar loss."""


@dataclass(frozen=True)
class UnionLoss:
    """One row of the family of union losses; the symbols are those of ``functional.union_loss``."""

    name: str
    alpha: float
    beta: float
    root: float = 1.0
    smooth: float = 1.0
    epsilon: float = 0.0
    terms: ClassVar[int] = 2

    def sums(self, logits, target, weight, annotated):  # noqa: D102, as in Loss
        prob = torch.sigmoid(logits)
        return union_sums(prob, target, weight, alpha=self.alpha, beta=self.beta, root=self.root, epsilon=self.epsilon)

    def value(self, sums):  # noqa: D102, as in Loss
        return union_loss_from_sums(sums, smooth=self.smooth)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy, focal with ``gamma``; the symbols are those of ``cross_entropy``."""

    name: str
    gamma: float = 0.0
    alpha: float | None = None
    balanced: bool = False
    terms: ClassVar[int] = 4

    def sums(self, logits, target, weight, annotated):  # noqa: D102, as in Loss
        return cross_entropy_sums(logits, target, weight, annotated, gamma=self.gamma)

    def value(self, sums):  # noqa: D102, as in Loss
        return cross_entropy_from_sums(sums, alpha=self.alpha, balanced=self.balanced)


@dataclass(frozen=True)
class GeneralizedDice:
    """Sudre et al., 2017."""

    name: str = "generalized Dice"
    terms: ClassVar[int] = 6

    def sums(self, logits, target, weight, annotated):  # noqa: D102, as in Loss
        return generalized_dice_sums(torch.sigmoid(logits), target, weight)

    def value(self, sums):  # noqa: D102, as in Loss
        return generalized_dice_from_sums(sums)


@dataclass(frozen=True)
class CenterlineDice:
    """clDice, Shit et al., 2021; a voxel's weight does not count in it."""

    name: str = "clDice"
    iterations: int = 10
    smooth: float = 1.0
    terms: ClassVar[int] = 4

    def sums(self, logits, target, weight, annotated):  # noqa: D102, as in Loss
        return centerline_dice_sums(logits, target, annotated, iterations=self.iterations)

    def value(self, sums):  # noqa: D102, as in Loss
        return centerline_dice_from_sums(sums, smooth=self.smooth)


@dataclass(frozen=True)
class Term:
    """One of several losses that are added up.

    Args:
        loss: a row.
        factors: of the outputs, decoder or full resolution first; the last holds for all that follow.
        weighted: whether a voxel's weight counts in it.
        map_name: a map that is above 0 in that part of the label's foreground which is the target.
        dilations: of that part, by one voxel across faces each.
    """

    loss: Loss
    factors: tuple[float, ...] = (1.0,)
    weighted: bool = True
    map_name: str | None = None
    dilations: int = 0

    def factor(self, output: int) -> float:
        """Factor of an output, by its number."""
        return self.factors[min(output, len(self.factors) - 1)]


@dataclass(frozen=True)
class SumOfLosses:
    """Several losses added up, which ``supervision`` takes apart.

    Raises:
        ValueError: its parts are no tuple of terms.
    """

    name: str
    parts: tuple[Term, ...]

    def __post_init__(self):
        if not isinstance(self.parts, tuple) or not self.parts or not all(isinstance(p, Term) for p in self.parts):
            raise ValueError(
                f"a tuple of terms is needed, such as (Term(DICE), Term(FOCAL)) with its comma; got {self.parts}"
            )


def terms_of(loss: Loss | SumOfLosses) -> tuple[Term, ...]:
    """Give the terms of a sum, or a loss as the only one."""
    return loss.parts if isinstance(loss, SumOfLosses) else (Term(loss),)


def asymmetric_similarity(beta: float) -> UnionLoss:
    """Hashemi et al., IEEE Access 7, 2019: 1 - F_beta, (1 + beta^2) sum p g / (beta^2 sum g + sum p)."""
    return UnionLoss("asymmetric similarity", alpha=1 / (1 + beta**2), beta=beta**2 / (1 + beta**2))


DICE = UnionLoss("Dice", alpha=0.5, beta=0.5)
NNUNET_DICE = replace(DICE, smooth=1e-5)
"""As nnU-Net smooths it."""
TANG = UnionLoss("union with p^2", alpha=1.0, beta=1.0, root=2.0)
"""Tang 2022, eq. 2, as printed: without the factor 2, so its minimum is 0.5."""
TANG_ROOT = UnionLoss("union with p^0.7", alpha=0.2, beta=0.8, root=0.7, epsilon=1e-4)
"""What the entry's public code uses with the same weights."""
ASYMMETRIC_SIMILARITY = asymmetric_similarity(1.5)
"""Shirokikh 2020's choice of beta."""
CROSS_ENTROPY = CrossEntropy("cross-entropy")
WEIGHTED_CROSS_ENTROPY = CrossEntropy("weighted cross-entropy", balanced=True)
FOCAL = CrossEntropy("focal", gamma=2.0, alpha=0.75)
"""Shirokikh 2020's choice of gamma and alpha."""
GENERALIZED_DICE = GeneralizedDice()
DICE_AND_WEIGHTED_CROSS_ENTROPY = SumOfLosses(
    "Dice + weighted cross-entropy", (Term(DICE), Term(WEIGHTED_CROSS_ENTROPY))
)
DICE_AND_CROSS_ENTROPY = SumOfLosses("Dice + cross-entropy", (Term(NNUNET_DICE, weighted=False), Term(CROSS_ENTROPY)))
"""nnU-Net's with ``batch_dice``, whatever the plans say of that; weights count in the cross-entropy alone."""
DICE_CROSS_ENTROPY_AND_THIN_DICE = SumOfLosses(
    "Dice + cross-entropy + Dice of thin airways",
    (
        Term(NNUNET_DICE, weighted=False),
        Term(CROSS_ENTROPY, weighted=False),
        Term(NNUNET_DICE, (1.0, 0.0)),
    ),
)
"""For ``THIN_AIRWAYS`` as weight, which counts in the last term alone, and that at full resolution alone.

In no paper. Thin airways have hardly any share in all voxels; in a Dice of their own, what is missed of them weighs as
much as what is found beside them."""
DICE_CROSS_ENTROPY_AND_CL_DICE = SumOfLosses(
    "Dice + cross-entropy + clDice", (*DICE_AND_CROSS_ENTROPY.parts, Term(CenterlineDice(), weighted=False))
)
CENTERLINE_RECALL = UnionLoss("centerline recall", alpha=0.0, beta=1.0, smooth=1e-5)
"""With the centerline s as target: 1 - (sum p s + smooth) / (sum s + smooth)."""
SKELETON_RECALL = SumOfLosses(
    "Dice + cross-entropy + skeleton recall",
    (*DICE_AND_CROSS_ENTROPY.parts, Term(CENTERLINE_RECALL, weighted=False, map_name="line", dilations=2)),
)
"""Kirchhoff et al., ECCV 2024: the centerline, made two voxels wider within the label.

Deviation: the centerline is the case's and follows augmentation, theirs is that of the augmented patch."""
AIIB23 = SumOfLosses(
    "AIIB23",
    (
        Term(TANG_ROOT, (1.0, 0.5)),
        Term(DICE, (0.5,), weighted=False),
        Term(CENTERLINE_RECALL, (2.0, 0.0), weighted=False, map_name="line"),
    ),
)
"""AIIB23's winner: factors of the decoding and of the encoding group."""
