"""What the page needs of a case: meshes, the branches they belong to, and the CT, small enough to be mailed.

Positions are mm from a corner of the image along its axes, turned as ``LPS``: x to the patient's left, y to the back, z
to the head.
"""

import base64
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image
from scipy.spatial import KDTree

from nnunetv2_airway.evaluation.case import read_evaluated, reference_tree
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.images import Grid, read_mask, read_volume, require_same_geometry
from nnunetv2_airway.tree.branches import nearest_on_line
from nnunetv2_airway.tree.components import bounding_box
from nnunetv2_airway.tree.parse import AirwayTree
from nnunetv2_airway.tree.surface import surface

MAX_TRIANGLES = 40_000
"""Of each surface: about 150 a branch of a tree of 250."""
FAR = 2
"""Voxels beyond the reference from which on a surface is drawn as false."""
STEPS = 2**14
"""Positions along the longest side of a surface's box."""
WINDOW = (-1000, 200)
"""HU shown from black to white."""
AROUND = 8.0
"""CT around the airways in mm."""
SIDE = 1.0
"""Shortest side in mm of a voxel of the CT that the page holds."""
MAX_VOXELS = 5_000_000
"""Of that CT at most; voxels become larger where the airways take more room."""
QUALITY = 45


def make_scene(case: str, evaluations: Sequence[Path], ct: Path | None = None) -> dict:
    """Collect what the page shows of a case.

    Args:
        case: its name.
        evaluations: one folder of ``nnUNetv2_airway_evaluate`` for each model, which all have the case.
        ct: on the grid of the reference.

    Returns:
        What JSON can hold: the ``branches`` of the reference, with the share ``found`` and ``detected`` for each model;
        ``reference``, its surface with the ``branch`` of each vertex and, for each model, whether the centerline voxel
        nearest to it was ``found``; ``predictions``, a surface for each model, with whether a vertex is ``far`` from
        the reference; ``ct``, a picture of all planes, or None.

    Raises:
        UserError: the files have changed since the evaluation or cannot be read, models were compared with different
            references, or the CT is on another grid.
    """
    records = [read_evaluated(folder, case) for folder in evaluations]
    made_from = [record["fingerprint"] for record in records]
    first, airway = made_from[0], made_from[0]["airway"]
    if any((other["reference"], other["airway"]) != (first["reference"], airway) for other in made_from):
        names = (
            record["reference_file"] + (f" with -l {' '.join(map(str, own['airway']))}" if own["airway"] else "")
            for record, own in zip(records, made_from, strict=True)
        )
        raise UserError(
            f"the models were compared with different references, {' and '.join(names)}: evaluate them with the same "
            f"one and the same -l"
        )
    reference_file = Path(records[0]["reference_file"])
    reference = read_mask(reference_file, airway)
    spacing = reference.GetSpacing()[::-1]
    tree = reference_tree(evaluations[0], case, sitk.GetArrayViewFromImage(reference), first)
    predictions = [read_mask(Path(record["prediction_file"]), airway) for record in records]
    masks = [sitk.GetArrayViewFromImage(image) for image in predictions]
    frame = Frame(reference)
    airways = tree.labels > 0
    everything = np.logical_or.reduce([airways, *masks])
    return {
        "case": case,
        "branches": _branches([record["branches"] for record in records]),
        "reference": tree_surface(tree, airways, masks, spacing, frame),
        "predictions": [_prediction(mask, tree, spacing, frame) for mask in masks],
        "ct": ct_picture(ct, reference, everything) if ct and everything.any() else None,
    }


class Frame:
    """Positions on the page of voxels (N, 3), as (plane, row, column), of an image or of another grid."""

    def __init__(self, image: sitk.Image, grid: Grid | None = None):
        self.grid = grid or Grid.of(image)
        upright = sitk.DICOMOrient(image, "LPS")
        self.axes = np.array(upright.GetDirection()).reshape(3, 3)
        self.origin = np.array(upright.GetOrigin())

    def __call__(self, voxels: np.ndarray) -> np.ndarray:
        """Find the positions (N, 3) in mm."""
        return (self.grid.positions(voxels) - self.origin) @ self.axes


def _branches(of_models: Sequence[Sequence[dict]]) -> list[dict]:
    facts = ("number", "generation", "parent", "length", "diameter")
    return [
        {
            **{name: round(same[0][name], 2) for name in facts},
            "found": [round(branch["found"], 1) for branch in same],
            "detected": [branch["detected"] for branch in same],
        }
        for same in zip(*of_models, strict=True)
    ]


def tree_surface(
    tree: AirwayTree, airways: np.ndarray, predictions: Sequence[np.ndarray], spacing: Sequence[float], frame: Frame
) -> dict:
    """Pack the surface of a tree, with the branch of each vertex, what each prediction found, and branches' middles."""
    voxels, triangles = surface(airways, spacing, max_triangles=MAX_TRIANGLES)
    if not len(voxels):
        nothing = np.zeros(0)
        return {**_mesh(voxels, triangles, frame, branch=nothing, found=[nothing for _ in predictions]), "middles": []}
    nearest = nearest_on_line(tree, voxels, spacing)
    found = [mask[tuple(tree.line.T)][nearest] for mask in predictions]
    middles = np.array([tree.line[tree.line_branch == k + 1].mean(0) for k in range(tree.num_branches)])
    return {
        **_mesh(voxels, triangles, frame, branch=tree.line_branch[nearest], found=found),
        "middles": np.round(frame(middles), 1).tolist(),
    }


def _prediction(mask: np.ndarray, tree: AirwayTree, spacing: Sequence[float], frame: Frame) -> dict:
    voxels, triangles = surface(mask, spacing, max_triangles=MAX_TRIANGLES)
    far = np.ones(len(voxels))
    if tree.num_branches and len(voxels):
        far = KDTree(tree.voxels).query(voxels, p=np.inf)[0] > FAR
    return _mesh(voxels, triangles, frame, far=far)


def _mesh(voxels: np.ndarray, triangles: np.ndarray, frame: Frame, **at_vertices) -> dict:
    """Pack a surface so that gzip finds small numbers.

    Vertices are numbered as the triangles come to them. Each is a difference to the one before, in steps, and a corner
    of a triangle is told by how many vertices ago its own was new, where the next new one is 0.
    """
    triangles = triangles[np.argsort(triangles.min(1), kind="stable")]
    used = triangles.reshape(-1)
    _, first, place = np.unique(used, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    chosen = used[np.sort(first)]
    index = rank[place]
    new = np.zeros(len(used), int)
    new[first] = 1
    ago = np.cumsum(new) - new - index
    positions = frame(voxels[chosen])
    low = positions.min(0, initial=np.inf) if len(positions) else np.zeros(3)
    step = max(float(np.ptp(positions, axis=0).max()) / STEPS, 1e-6) if len(positions) else 1.0
    return {
        "low": low.tolist(),
        "step": step,
        "vertices": _packed(np.diff(np.round((positions - low) / step), axis=0, prepend=0).astype(int), np.uint16),
        "triangles": _packed(ago, np.min_scalar_type(ago.max(initial=0))),
        **{
            name: [_packed(each[chosen], np.uint8) for each in values]
            if isinstance(values, list)
            else _packed(values[chosen], np.uint16)
            for name, values in at_vertices.items()
        },
    }


def _packed(values: np.ndarray, kind: np.typing.DTypeLike) -> dict:
    """Pack numbers as JSON holds them, the bytes of one place after those of the other."""
    array = np.ascontiguousarray(values.reshape(-1).astype(np.dtype(kind).newbyteorder("<")))
    planes = array.view(np.uint8).reshape(-1, array.itemsize).T
    return {"bytes": array.itemsize, "data": base64.b64encode(gzip.compress(planes.tobytes(), mtime=0)).decode()}


def ct_picture(file: Path, reference: sitk.Image, airways: np.ndarray) -> dict:
    """Cut out the CT around the airways and lay its planes, from feet to head, side by side in a picture."""
    image = read_volume(file)
    try:
        require_same_geometry(image, reference)
    except UserError as error:
        raise UserError(f"the CT {file} cannot be shown, {error}") from error
    image = sitk.DICOMOrient(image, "LPS")
    upright = sitk.DICOMOrient(Grid.of(reference).image(airways.astype(np.uint8)), "LPS")
    spacing = np.array(image.GetSpacing())
    box = bounding_box(sitk.GetArrayViewFromImage(upright) > 0)[::-1]
    ends = np.array([[side.start, side.stop - 1] for side in box]) * spacing[:, None]
    low = np.maximum(ends[:, 0] - AROUND, 0)
    extent = np.minimum(ends[:, 1] + AROUND, (np.array(image.GetSize()) - 1) * spacing) - low
    side = max(SIDE, float(np.cbrt((extent + SIDE).prod() / MAX_VOXELS)))
    columns, rows, planes = (int(length / side) + 1 for length in extent)
    small = sitk.Resample(
        sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), np.maximum(spacing, side / 2).tolist())
        if side > 2 * spacing.max()
        else image,
        (columns, rows, planes), sitk.Transform(), sitk.sitkLinear,
        image.TransformContinuousIndexToPhysicalPoint((low / spacing).tolist()), (side,) * 3, image.GetDirection(),
    )  # fmt: skip
    grey = sitk.GetArrayFromImage(sitk.IntensityWindowing(sitk.Cast(small, sitk.sitkFloat32), *WINDOW, 0, 255))
    across = int(np.ceil(np.sqrt(planes * rows / columns)))
    sheet = np.zeros((-(-planes // across) * rows, across * columns), np.uint8)
    for plane, content in enumerate(grey.astype(np.uint8)):
        top, left = plane // across * rows, plane % across * columns
        sheet[top : top + rows, left : left + columns] = content
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", quality=QUALITY)
    return {
        "size": [columns, rows, planes],
        "low": low.tolist(),
        "side": side,
        "across": across,
        "picture": f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}",
    }
