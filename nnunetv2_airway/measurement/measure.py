"""An airway mask measured: its tree, the figures of each branch, and those of the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.images import Grid, orientation
from nnunetv2_airway.tree.branches import Branch, measure_branches
from nnunetv2_airway.tree.centerline import checked_spacing
from nnunetv2_airway.tree.components import bounding_box, count_components, largest_component
from nnunetv2_airway.tree.export import to_world
from nnunetv2_airway.tree.measures import BranchMeasures, branch_measures
from nnunetv2_airway.tree.parse import AirwayTree, parse_tree

EVEN = 1.25
"""Longest side of a voxel over its shortest up to which a mask is measured on its own grid."""
LONGEST_TRACHEA = 140.0
"""In mm, up to the larynx."""
AS_WIDE = 0.97
"""Diameter of a branch, in units of its parents', from which on it may be a part of one of these."""
LEFT_OUT = 1.0
"""Percent of a mask outside what is measured from which on a line says so."""
RIM = 2
"""Voxels around the airways of the part that is measured."""


class Branches(list[BranchMeasures]):
    """The branches of a tree by number, with the figures of the whole.

    Attributes:
        summary: ``volume_ml`` of the mask, ``total_length_mm``, ``branches``, ``ends`` (branches without children),
            ``deepest_generation``, ``pieces`` (26-connected components of the mask), ``outside_largest_piece_percent``
            of its voxels, which are not measured, ``orientation`` in which it is stored, and ``by_generation``:
            ``branches``, ``length_mm`` and mean ``diameter_mm`` of each; ``doubts``, why generations may be wrong.
    """

    summary: dict

    def to_dataframe(self):
        """Return a pandas DataFrame, a row for each branch, with the columns of ``branches.csv``.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        return pandas.DataFrame([asdict(branch) for branch in self]).rename(columns={"number": "branch"})


@dataclass(frozen=True)
class Measured:
    """A mask that has been measured.

    Args:
        grid: upright and with even voxels, that of the tree.
        tree: of the largest piece.
        branches: measured.
    """

    grid: Grid
    tree: AirwayTree
    branches: Branches

    def rows(self) -> list[Branch]:
        """The branches as ``tree.export`` wants them, with the measured lengths and diameters."""
        rows = measure_branches(self.tree, self.grid.spacing[::-1])
        return [
            replace(row, length=own.length_mm, diameter=own.diameter_mm)
            for row, own in zip(rows, self.branches, strict=True)
        ]


def measure(mask: np.ndarray | sitk.Image, spacing: Sequence[float] | None = None) -> Branches:
    """Measure an airway mask, of any origin.

    The mask is turned upright (LPS) and, where its voxels are not even, brought to a grid of its shortest side, so that
    the same tree gives the same figures however it is stored. Of an array, planes have to go from feet to head.

    Args:
        mask: SimpleITK image, or array (Z, Y, X); airway where > 0.
        spacing: of an array, (z, y, x) in mm.

    Returns:
        A list with one ``BranchMeasures`` for each branch of the largest piece; places are (x, y, z) in mm, RAS as in a
        NIfTI file. Empty for an empty mask.

    Raises:
        UserError: it has not three axes, the spacing is missing or not three positive numbers.
    """
    if isinstance(mask, sitk.Image):
        if spacing is not None:
            raise UserError("an image has a spacing of its own, leave out spacing")
        if mask.GetDimension() != 3:
            raise UserError(f"an image with three axes is needed, got {mask.GetDimension()}")
        return measure_image(mask).branches
    if isinstance(mask, str | Path):
        raise UserError(
            f"an image or an array is needed, got the path {mask}: measure(SimpleITK.ReadImage({str(mask)!r}))"
        )
    if spacing is None:
        raise UserError("an array needs spacing=(z, y, x) in mm")
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise UserError(f"an array with three axes (Z, Y, X) is needed, got shape {mask.shape}")
    grid = Grid.upright(checked_spacing(spacing))
    return measure_image(grid.image((mask > 0).astype(np.uint8))).branches


def measure_image(image: sitk.Image) -> Measured:
    """Measure a mask, airway where > 0, see ``measure``."""
    array = sitk.GetArrayViewFromImage(image) > 0
    side = np.prod(image.GetSpacing())
    tree, grid = upright_tree(image)
    spacing = grid.spacing[::-1]
    branches = Branches(
        replace(branch, **{name: _place(grid, getattr(branch, name)) for name in ("start_mm", "end_mm")})
        for branch in branch_measures(tree, spacing)
    )
    voxels = np.count_nonzero(array)
    outside = np.count_nonzero(array & ~largest_component(array, connectivity=6)) if voxels else 0
    branches.summary = {
        "volume_ml": float(voxels * side / 1000),
        "total_length_mm": float(sum(branch.length_mm for branch in branches)),
        "branches": len(branches),
        "ends": sum(not branch.children for branch in branches),
        "deepest_generation": max((branch.generation for branch in branches), default=None),
        "pieces": count_components(array),
        "outside_largest_piece_percent": float(100 * outside / voxels) if voxels else None,
        "orientation": orientation(image),
        "by_generation": _by_generation(branches),
        "doubts": _doubts(branches),
    }
    return Measured(grid, tree, branches)


def warnings_of(summary: Mapping) -> list[str]:
    """Say in sentences what a person should know of a measured mask, by its ``Branches.summary``."""
    found, outside = [], summary["outside_largest_piece_percent"]
    if outside and outside > LEFT_OUT:
        found.append(
            f"{outside:.1f} % of the mask lie outside its largest piece and are not measured; voxels hold together by "
            f"their faces"
        )
    if summary["doubts"]:
        found.append(f"{'; '.join(summary['doubts'])}: generations may be counted wrongly")
    return found


def upright_tree(image: sitk.Image) -> tuple[AirwayTree, Grid]:
    """Parse the tree that is measured, on its grid, which is upright and has even voxels."""
    upright, grid = _upright(image)
    return parse_tree(upright, upright=True), grid


def _place(grid: Grid, millimetres: Sequence[float]) -> tuple[float, float, float]:
    """Place in RAS of one that is (z, y, x) in mm from the first voxel of a grid."""
    voxel = np.array(millimetres) / grid.spacing[::-1]
    return tuple(to_world(grid, voxel[None])[0].tolist())


def _by_generation(branches: Sequence[BranchMeasures]) -> dict[str, dict]:
    groups: dict[str, dict] = {}
    for generation in range(max((branch.generation for branch in branches), default=-1) + 1):
        own = [branch for branch in branches if branch.generation == generation]
        groups[str(generation)] = {
            "branches": len(own),
            "length_mm": float(sum(branch.length_mm for branch in own)),
            "diameter_mm": float(np.mean([branch.diameter_mm for branch in own])) if own else None,
        }
    return groups


def _doubts(branches: Sequence[BranchMeasures]) -> list[str]:
    """Say what about the first generations is unlike a tree whose trachea, carina and main bronchi were recognised."""
    trachea, main, lobar = ([branch for branch in branches if branch.generation == number] for number in range(3))
    if not main:
        return []

    def width(generation: Sequence[BranchMeasures]) -> float:
        return max((branch.diameter_mm for branch in generation), default=0.0)

    doubts = []
    if trachea[0].length_mm > LONGEST_TRACHEA:
        doubts.append(f"the trachea is {trachea[0].length_mm:.0f} mm long")
    if len(main) != 2:
        doubts.append(f"the trachea has {len(main)} {'child' if len(main) == 1 else 'children'}, not 2")
    if width(main) > AS_WIDE * width(trachea):
        doubts.append(f"a branch of generation 1 is {width(main):.1f} mm wide, the trachea {width(trachea):.1f} mm")
    if width(lobar) > AS_WIDE * width(main):
        doubts.append(
            f"a branch of generation 2 is {width(lobar):.1f} mm wide, the main bronchi at most {width(main):.1f} mm"
        )
    return doubts


def _upright(image: sitk.Image) -> tuple[np.ndarray, Grid]:
    """Cut out the airways, turn them upright, and make their voxels even by the distance to their surface."""
    upright = sitk.DICOMOrient(image, "LPS")
    box = bounding_box(sitk.GetArrayViewFromImage(upright) > 0)
    if box is None:
        return np.zeros((1, 1, 1), bool), Grid.of(upright)
    low = [int(axis.start) for axis in box[::-1]]
    size = [int(axis.stop - axis.start) for axis in box[::-1]]
    part = sitk.ConstantPad(sitk.RegionOfInterest(upright, size, low), [RIM] * 3, [RIM] * 3, 0)
    mask = sitk.GetArrayFromImage(part) > 0
    grid = Grid.of(part)
    spacing = np.array(grid.spacing)
    if spacing.max() <= EVEN * spacing.min():
        return mask, grid
    sides = spacing[::-1]
    depth = np.where(mask, distance_transform_edt(mask, sides), -distance_transform_edt(~mask, sides))
    side = float(spacing.min())
    even = replace(grid, spacing=(side,) * 3)
    count = [int((n - 1) * step / side) + 1 for n, step in zip(part.GetSize(), spacing, strict=True)]
    resampled = sitk.Resample(
        grid.image(depth.astype(np.float32)), count, sitk.Transform(), sitk.sitkLinear, even.origin,
        even.spacing, even.direction, -1.0,
    )  # fmt: skip
    return sitk.GetArrayFromImage(resampled) >= -1e-3, even
