"""Another patient's airway tree: a given mask made larger or smaller, bent smoothly, on another grid."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.tree.components import largest_piece

BEND = 30.0
"""Standard deviation in mm of the displacement of the control points of the spline, for a share of 1."""
MESH = 4
"""Pieces of the spline along each axis of the volume."""
SHARE = 0.4
"""Of a voxel that lies in the mask, from which on it is airway: at 0.5 the smallest airways would fall into pieces."""


def other_patient(
    mask: sitk.Image, rng: np.random.Generator, share: float, spacing: Sequence[float] | None = None
) -> sitk.Image:
    """Vary an airway mask.

    Args:
        mask: airway where above 0.
        rng: draws size and bend.
        share: by which the size differs at most, between patients and a third of it between axes; 0 changes neither
            size nor shape.
        spacing: (z, y, x) in mm of the result; None is the mask's.

    Returns:
        Mask of the same orientation; its largest 6-connected piece, as references are evaluated.

    Raises:
        UserError: nothing is left of it.
    """
    own = np.array(mask.GetSpacing())
    new = own if spacing is None else np.array(spacing[::-1], float)
    scale = (1 + share * rng.uniform(-1, 1)) * (1 + share / 3 * rng.uniform(-1, 1, 3))
    size = np.ceil(np.array(mask.GetSize()) * own * scale / new).astype(int)
    grid = sitk.Image([1, 1, 1], sitk.sitkUInt8)  # size 1: the spline and the resampling need the geometry alone
    grid = sitk.Resample(grid, size.tolist(), sitk.Transform(), sitk.sitkNearestNeighbor, mask.GetOrigin(),
                         new.tolist(), mask.GetDirection())  # fmt: skip
    bend = sitk.BSplineTransformInitializer(grid, [MESH] * 3)
    bend.SetParameters(rng.normal(0, BEND * share, len(bend.GetParameters())).tolist())
    direction = np.array(mask.GetDirection()).reshape(3, 3)
    shrink = sitk.AffineTransform(3)
    shrink.SetMatrix((direction @ np.diag(1 / scale) @ direction.T).ravel().tolist())
    shrink.SetCenter(mask.GetOrigin())
    soft = sitk.DiscreteGaussian(sitk.Cast(mask > 0, sitk.sitkFloat32), (0.16 * np.maximum(own, new) ** 2).tolist())
    varied = sitk.Resample(soft, grid, sitk.CompositeTransform([shrink, bend]), sitk.sitkLinear)
    airway = sitk.GetArrayViewFromImage(varied) >= SHARE
    if not airway.any():
        raise UserError("nothing is left of the airway mask: ask for a finer --spacing")
    result = sitk.GetImageFromArray(largest_piece(airway, connectivity=6).astype(np.uint8))
    result.CopyInformation(varied)
    return result
