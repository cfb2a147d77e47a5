"""Trees drawn by hand."""

from collections.abc import Callable

import numpy as np
import pytest


def draw_fork(cut: int = 0) -> np.ndarray:
    """A trunk of 5 x 5 voxels that the volume's upper edge cuts, and two oblique branches of 3 x 3 below it.

    The right branch, towards higher columns, ends ``cut`` steps early.
    """
    mask = np.zeros((50, 40, 60), np.uint8)
    mask[25:, 17:22, 28:33] = 1
    for step in range(22):
        mask[25 - step : 28 - step, 18:21, 29 - step : 32 - step] = 1
        if step < 22 - cut:
            mask[25 - step : 28 - step, 18:21, 29 + step : 32 + step] = 1
    return mask


@pytest.fixture(scope="session")
def fork() -> Callable[..., np.ndarray]:
    """The function that draws a fork."""
    return draw_fork
