"""What a row of the schedule says about the loss: a member of the union family, and the terms of its weight.

Papers: Tang 2022 (eqs. 2 to 5), Zheng 2021 (Root Tversky). Frozen rows without behaviour; ``group_supervision`` turns
them into a module.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Union:
    """One row of the family of union losses; the symbols are those of ``functional.union_loss``."""

    name: str
    alpha: float
    beta: float
    root: float = 1.0
    smooth: float = 1.0
    epsilon: float = 0.0


@dataclass(frozen=True)
class LocalImbalance:
    """Tang 2022, eq. 3: w_p; the exponent is drawn uniformly from a range for each patch."""

    exponents: tuple[float, float] = (2.0, 3.0)
    floor: float = 0.05
    kernel_size: int = 7
    name: str = "local imbalance"


@dataclass(frozen=True)
class CenterlineDistance:
    """Tang 2022, eq. 4: w_d."""

    name: str = "centerline distance"


Weight = LocalImbalance | CenterlineDistance

DICE = Union("Dice", alpha=0.5, beta=0.5)
TANG = Union("union with p^2", alpha=1.0, beta=1.0, root=2.0)
"""Tang 2022, eq. 2, as printed: without the factor 2, so its minimum is 0.5."""
TANG_ROOT = Union("union with p^0.7", alpha=0.2, beta=0.8, root=0.7, epsilon=1e-4)
"""What the entry's public code uses with the same weights."""

LOCAL_IMBALANCE = LocalImbalance()
CENTERLINE_DISTANCE = CenterlineDistance()
