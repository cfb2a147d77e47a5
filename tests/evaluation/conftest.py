"""Trees drawn by hand, in memory and on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

SPACING = (2.5, 0.8, 0.6)
OBLIQUE = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)


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


def write_image(file: Path, mask: np.ndarray, *, origin=(-100.0, 20.0, 300.0), direction=OBLIQUE) -> None:
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(origin)
    image.SetDirection(direction)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


@pytest.fixture(scope="session")
def write_mask() -> Callable[..., None]:
    """The function that writes a mask as an anisotropic, oblique image."""
    return write_image


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path, Path]:
    """References and predictions of two cases, one whole and one with half a branch, and a folder for the output."""
    references, predictions = tmp_path / "labelsTs", tmp_path / "predictions"
    for case, cut in (("whole", 0), ("half", 12)):
        write_image(references / f"{case}.nii.gz", draw_fork())
        write_image(predictions / f"{case}.nrrd", 3 * draw_fork(cut))
    return references, predictions, tmp_path / "out"
