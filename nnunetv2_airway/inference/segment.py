"""From a CT in memory to its airway tree, and whether what came of it can be one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from scipy.ndimage import distance_transform_edt

from nnunetv2_airway.conversion.lungs import Box
from nnunetv2_airway.conversion.region import MARGIN, extent, region
from nnunetv2_airway.conversion.units import to_hounsfield
from nnunetv2_airway.inference.models import BUILT_IN, find_model
from nnunetv2_airway.inference.postprocessing import keep_airway_tree
from nnunetv2_airway.inference.predictor import AirwayPredictor, Settings, load_predictor
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.images import Grid, axis_between, orientation
from nnunetv2_airway.tree.centerline import checked_spacing
from nnunetv2_airway.tree.components import bounding_box, largest_component
from nnunetv2_airway.tree.parse import parse_tree

LOWEST = 0.3
"""Height of a lungs' box, in units of its width, below which a CT is none of the chest."""
LARGEST = 250.0
"""Volume in ml that no airway tree exceeds."""
SMALLEST = 0.5
"""Volume in ml below which nothing is an airway tree, a newborn's included."""
FORK = 3
"""Branches of a tree that forks once."""
FEW = 10.0
"""Volume in ml below which a tree is looked at for forks."""
LEFT_OUT = 1.0
"""Volume in ml of a piece that is missed in a tree."""
REACH = 0.2
"""Of the half of the lungs' box, how far airways reach into each lung at least."""
WIDEST = 18.0
"""Radius in mm of a ball that fits into no airway, an enlarged trachea included."""


def segment(
    ct: np.ndarray | sitk.Image,
    model: str | Path | nnUNetPredictor | None = None,
    spacing: Sequence[float] | None = None,
    *,
    settings: Settings | None = None,
    grid: Sequence[float] | None = None,
    accept: bool = False,
) -> np.ndarray | sitk.Image:
    """Segment the airway tree of one chest CT.

    Args:
        ct: in Hounsfield units: SimpleITK image, or array (Z, Y, X), planes from feet to head, rows from front to
            back, columns from the patient's right to the left.
        model: nnU-Net model folder, exported zip or published checkpoint; or a predictor that has been initialised; by
            default the model of this package.
        spacing: of an array, (z, y, x) in mm.
        settings: of a model that is loaded here; by default on the GPU, where there is one.
        grid: spacing (z, y, x) in mm on which a published network works.
        accept: take also what does not look like an airway tree.

    Returns:
        1 in the airway tree and 0 elsewhere, uint8: an image or an array, as the CT.

    Raises:
        UserError: the CT is not in HU or no chest, the model is none for airways, or what it finds is no airway tree.
    """
    image = _as_image(ct, spacing)
    predictor = model if isinstance(model, nnUNetPredictor) else None
    if predictor is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        predictor = load_predictor(find_model(Path(model or BUILT_IN)), settings or Settings(device=device))
    elif settings is not None:
        raise UserError("a predictor has settings of its own, leave out settings")
    tree = segment_image(image, AirwayPredictor.of(predictor), grid=grid, accept=accept)
    return tree.mask if isinstance(ct, np.ndarray) else Grid.of(image).image(tree.mask)


def _as_image(ct: np.ndarray | sitk.Image, spacing: Sequence[float] | None) -> sitk.Image:
    if isinstance(ct, sitk.Image):
        if spacing is not None:
            raise UserError("an image has a spacing of its own, leave out spacing")
        if ct.GetDimension() != 3 or ct.GetNumberOfComponentsPerPixel() != 1:
            raise UserError("one 3-D volume is needed")
        return ct
    if not isinstance(ct, np.ndarray) or ct.ndim != 3:
        raise UserError(
            f"an array (Z, Y, X) or a SimpleITK image, as of SimpleITK.ReadImage, is needed, got "
            f"{getattr(ct, 'shape', type(ct).__name__)}"
        )
    if spacing is None:
        raise UserError("an array needs spacing=(z, y, x) in mm")
    return Grid.upright(checked_spacing(spacing)).image(ct)


def segment_image(
    ct: sitk.Image,
    predictor: AirwayPredictor,
    *,
    grid: Sequence[float] | None = None,
    accept: bool = False,
    lost_scale: tuple[float, float] | None = None,
) -> "Tree":
    """Segment the airway tree of one chest CT as it was read.

    Args:
        ct: in HU, any orientation.
        predictor: the model.
        grid: see ``AirwayPredictor.segment_ct``.
        accept: take also what does not look like an airway tree; what speaks against it is then the tree's problem.
        lost_scale: slope and intercept that the CT may have lost, see ``to_hounsfield``.

    Raises:
        UserError: the CT is not in HU or no chest, or what the model finds is no airway tree.
    """
    try:
        hu, _ = to_hounsfield(sitk.GetArrayViewFromImage(ct), None, lost=lost_scale, case="")
    except UserError as error:
        raise UserError(f"{error} (where a --scale SLOPE INTERCEPT is named: ct = SLOPE * ct + INTERCEPT)") from error
    image = Grid.of(ct).image(hu)
    box, lungs, _ = region(image, None, margin=MARGIN)
    no_chest = why_no_chest(image, box, lungs)
    if no_chest and not accept:
        raise UserError(no_chest)
    tree = find_tree(image, box, predictor, grid)
    if tree.problem and not accept:
        raise UserError(tree.problem)
    return replace(tree, problem="; ".join(filter(None, (no_chest, tree.problem))))


@dataclass(frozen=True)
class Tree:
    """What a model found in a CT.

    Args:
        mask: (Z, Y, X) uint8, 1 in its largest connected piece, holes filled.
        problem: why it is no airway tree, empty where it may be one.
        doubts: what should be looked at, in sentences.
        spacing: in mm of the grid on which the model worked, along the axes of the CT.
        windows: how many the CT had, and how many were predicted since they hold air.
    """

    mask: np.ndarray
    problem: str
    doubts: list[str]
    spacing: tuple[float, ...]
    windows: tuple[int, int]


def why_no_chest(ct: sitk.Image, box: Box, lungs: str) -> str:
    """Say why a CT is not taken for one of the chest; empty where it is.

    Args:
        ct: in HU.
        box: of the lungs, see ``conversion.region``.
        lungs: where it comes from, see there.
    """
    if lungs == "not found":
        return "no lungs were found: a CT of the chest is needed. --no-lung-box looks for airways all the same"
    height, width = (extent(box, ct, letters) for letters in ("SI", "LR"))
    if lungs == "found" and height < LOWEST * width:
        return (
            f"what is seen of the lungs is {height:.0f} mm high and {width:.0f} mm wide: a CT of the whole chest is "
            f"needed"
        )
    return ""


def find_tree(ct: sitk.Image, box: Box, predictor: AirwayPredictor, grid: Sequence[float] | None = None) -> Tree:
    """Let a model find the airway tree of a CT.

    Args:
        ct: in HU, any orientation.
        box: planes, rows and columns that are looked at.
        predictor: the model.
        grid: see ``AirwayPredictor.segment_ct``.

    Raises:
        UserError: a grid is given to a model that has its own.
    """
    start = [int(axis.start) for axis in box[::-1]]
    part = sitk.RegionOfInterest(ct, [int(axis.stop - axis.start) for axis in box[::-1]], start)
    turned = sitk.DICOMOrient(part, predictor.orientation) if predictor.orientation else part
    hu = sitk.GetArrayViewFromImage(turned).astype(np.float32)
    found = Grid.of(turned).image(predictor.segment_ct(hu, turned.GetSpacing()[::-1], grid))
    spacing = predictor.spacing
    if predictor.orientation:
        found = sitk.DICOMOrient(found, orientation(ct))
        worked = sitk.Image(1, 1, 1, sitk.sitkUInt8)
        worked.SetDirection(turned.GetDirection())
        worked.SetSpacing(spacing[::-1])
        spacing = sitk.DICOMOrient(worked, orientation(ct)).GetSpacing()[::-1]
    mask = np.zeros(ct.GetSize()[::-1], np.uint8)
    mask[box] = sitk.GetArrayViewFromImage(found)
    tree = keep_airway_tree(mask, ct.GetSpacing()[::-1])
    problem = why_no_tree(tree, ct.GetSpacing()[::-1])
    doubts = [] if problem else [*_left_out(mask, tree, ct), *_one_sided(tree, ct, box), *_upside_down(tree, ct)]
    return Tree(tree, problem, doubts, spacing, predictor.windows)


def _left_out(mask: np.ndarray, tree: np.ndarray, ct: sitk.Image) -> list[str]:
    """Say so where a large piece of what a model found does not hang on the tree."""
    piece = largest_component(np.where(tree > 0, 0, mask), connectivity=26)
    volume = np.count_nonzero(piece) * np.prod(ct.GetSpacing()) / 1000
    if volume <= LEFT_OUT:
        return []
    z, y, x = (round(places.mean()) for places in np.nonzero(piece))
    return [
        f"a piece of {volume:.1f} ml does not hang on the tree and was left out, around voxel x {x}, y {y}, z {z}: "
        f"look whether a part of the airways is missing; gas in stomach or bowel may also be taken for airways"
    ]


def _one_sided(tree: np.ndarray, ct: sitk.Image, box: Box) -> list[str]:
    """Say so where one half of the lungs' box holds hardly any of the tree."""
    axis, towards = axis_between(ct, "LR")
    found = bounding_box(tree > 0)[axis]
    half = (box[axis].stop - box[axis].start) / 2
    middle = box[axis].start + half
    reached = {"right": middle - found.start, "left": found.stop - middle}
    if towards == "R":
        reached = dict(zip(reached, reversed(reached.values()), strict=True))
    return [
        f"there are hardly any airways in the {side} lung" for side, voxels in reached.items() if voxels < REACH * half
    ]


def _upside_down(tree: np.ndarray, ct: sitk.Image) -> list[str]:
    """Say so where the lower third of the tree is wider than the upper one, in which the trachea is."""
    axis, towards = axis_between(ct, "SI")
    from_feet = np.moveaxis(tree[bounding_box(tree > 0)] > 0, axis, 0)[:: 1 if towards == "S" else -1]
    third = -(-len(from_feet) // 3)
    spacing = ct.GetSpacing()[::-1]
    sides = (spacing[axis], *(side for k, side in enumerate(spacing) if k != axis))
    feet, head = (
        2 * distance_transform_edt(np.pad(part, ((0, 0), (1, 1), (1, 1))), sides).max()
        for part in (from_feet[:third], from_feet[-third:])
    )
    if feet <= head:
        return []
    return [
        f"the airways are wider towards the feet ({feet:.0f} mm) than towards the head ({head:.0f} mm), where the "
        f"trachea should be: is the CT upside down?"
    ]


def why_no_tree(mask: np.ndarray, spacing: Sequence[float]) -> str:
    """Say why a mask is no airway tree: nothing, hardly anything, or leaked; empty where it may be one.

    Args:
        mask: (Z, Y, X), one connected piece where > 0.
        spacing: (z, y, x) in mm.
    """
    box = bounding_box(mask > 0)
    if box is None:
        return "the model found no airway in it"
    inside = np.pad(mask[box] > 0, 1)
    volume = np.count_nonzero(inside) * np.prod(spacing) / 1000
    if volume < SMALLEST:
        return f"the model found only {volume:.2f} ml, which is no airway tree"
    if volume > LARGEST:
        return f"what the model found has {volume:.0f} ml: it has leaked, no airway tree has more than {LARGEST:.0f}"
    if volume < FEW and parse_tree(mask).num_branches < FORK:
        return f"what the model found, {volume:.1f} ml, has no fork, so it is no airway tree"
    widest = distance_transform_edt(inside, spacing).max()
    if widest > WIDEST:
        return (
            f"what the model found has leaked: a ball of {2 * widest:.0f} mm fits into it, which is more than any "
            f"airway is wide"
        )
    return ""
