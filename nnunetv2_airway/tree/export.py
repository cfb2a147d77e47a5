"""Surfaces and centerline trees for other tools: PLY, VTK PolyData and JSON, in mm.

Positions are the world coordinates of a NIfTI file (RAS: x grows towards the patient's right, y towards the front, z
towards the head), and the files say so in the words that 3D Slicer reads, ``SPACE=RAS``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement

from nnunetv2_airway.io.files import atomic_path, write_json, write_text
from nnunetv2_airway.io.images import Grid
from nnunetv2_airway.tree.branches import Branch, inscribed_radius, paths_from_trachea
from nnunetv2_airway.tree.parse import AirwayTree
from nnunetv2_airway.tree.surface import surface

SPACE = "SPACE=RAS"


@dataclass(frozen=True)
class Centerline:
    """A tree's centerline as points and lines.

    Args:
        points: (M, 3), RAS in mm.
        radius: of the largest sphere inside the airways around each point, in mm, (M,).
        branch: of each point, from 1, (M,).
        lines: indices of the points along each piece, from the trachea outwards; a piece begins with the point that it
            goes on from, and belongs to the branch of its last point.
    """

    points: np.ndarray
    radius: np.ndarray
    branch: np.ndarray
    lines: list[list[int]]


def to_world(grid: Grid, voxels: np.ndarray) -> np.ndarray:
    """Find where voxels lie.

    Args:
        grid: of their image.
        voxels: (N, 3) as (plane, row, column).

    Returns:
        (N, 3) as (x, y, z) in mm, RAS as in a NIfTI file's affine.
    """
    return grid.positions(voxels) * (-1, -1, 1)  # ITK counts towards left and back


def measure_centerline(tree: AirwayTree, grid: Grid) -> Centerline:
    """Lay out the centerline of a tree with at least one branch; ``grid`` is that of its mask."""
    spacing = grid.spacing[::-1]
    distance, before = paths_from_trachea(tree, spacing)
    return Centerline(
        points=to_world(grid, tree.line),
        radius=inscribed_radius(tree, spacing),
        branch=tree.line_branch.astype(int),
        lines=_lines(distance, before, tree.line_branch),
    )


def _lines(distance: np.ndarray, before: np.ndarray, branch: np.ndarray) -> list[list[int]]:
    """Join steps to lines that end where the tree forks, where it ends, and where a branch does."""
    after = np.bincount(before[before >= 0], minlength=len(before))
    lines, line_of = [], {}
    for point in np.argsort(distance, kind="stable").tolist():
        last = int(before[point])
        if last >= 0 and after[last] == 1 and branch[last] == branch[point] and last in line_of:
            line = line_of[last]
        else:
            line = [last] if last >= 0 else []
            lines.append(line)
        line.append(point)
        line_of[point] = line
    return [line for line in lines if len(line) > 1]


def write_surface(file: Path, mask: np.ndarray, grid: Grid) -> None:
    """Write the surface of a mask (Z, Y, X) as a PLY."""
    voxels, triangles = surface(mask, grid.spacing[::-1])
    if np.linalg.det(np.array(grid.direction).reshape(3, 3)) < 0:
        triangles = triangles[:, ::-1]
    vertices = np.array(list(map(tuple, to_world(grid, voxels))), [(axis, "f4") for axis in "xyz"])
    faces = np.empty(len(triangles), [("vertex_indices", "i4", (3,))])
    faces["vertex_indices"] = triangles
    elements = [PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")]
    with atomic_path(file) as temporary:
        PlyData(elements, comments=[SPACE, "mm"]).write(str(temporary))


def write_centerline(
    vtk: Path, json: Path, tree: AirwayTree, grid: Grid, branches: Sequence[Branch], facts: Sequence[dict] = ()
) -> None:
    """Write the centerline of a tree as VTK PolyData and as JSON.

    Args:
        vtk: file to write.
        json: file to write.
        tree: what to write; without branches the files hold no points.
        grid: of the tree's mask.
        branches: of the tree, as ``measure_branches`` returns them.
        facts: more about each branch, for the JSON.
    """
    line = measure_centerline(tree, grid) if branches else Centerline(np.zeros((0, 3)), *(np.zeros(0, int),) * 2, [])
    rows = {branch.number: branch for branch in branches}
    owners = [rows[int(line.branch[points[-1]])] for points in line.lines]
    at_points = [rows[number] for number in line.branch.tolist()]
    write_text(vtk, _vtk(line, at_points, owners))
    content = [
        {
            "number": branch.number,
            "generation": branch.generation,
            "parent": branch.parent,
            "children": [other.number for other in branches if other.parent == branch.number],
            "length_mm": branch.length,
            "diameter_mm": branch.diameter,
            **dict(zip(("start", "end"), to_world(grid, np.array([branch.start, branch.end])).tolist(), strict=True)),
            **more,
            "lines": [
                [[*line.points[point].tolist(), float(line.radius[point])] for point in points]
                for points, owner in zip(line.lines, owners, strict=True)
                if owner is branch
            ],
        }
        for branch, more in zip(branches, facts or [{}] * len(branches), strict=True)
    ]
    columns = ["x", "y", "z", "radius"]
    write_json(json, {"space": "RAS", "unit": "mm", "columns": columns, "branches": content})


def _vtk(line: Centerline, at_points: Sequence[Branch], at_lines: Sequence[Branch]) -> str:
    """Write VTK's legacy format, version 3, as text."""

    def fields(branches: Sequence[Branch]) -> dict[str, list]:
        whole = {"branch": [branch.number for branch in branches]}
        whole |= {name: [getattr(branch, name) for branch in branches] for name in ("generation", "parent")}
        return whole | {name: [float(getattr(branch, name)) for branch in branches] for name in ("length", "diameter")}

    blocks = [
        *("# vtk DataFile Version 3.0", f"{SPACE} airway centerline, mm", "ASCII", "DATASET POLYDATA"),
        f"POINTS {len(line.points)} float",
        *(" ".join(f"{value:.4f}" for value in point) for point in line.points),
        f"LINES {len(line.lines)} {sum(len(points) + 1 for points in line.lines)}",
        *(" ".join(map(str, (len(points), *points))) for points in line.lines),
    ]
    at_each_point = {"radius": line.radius.astype(float).tolist(), **fields(at_points)}
    for title, count, arrays in (
        ("POINT_DATA", len(line.points), at_each_point),
        ("CELL_DATA", len(line.lines), fields(at_lines)),
    ):
        blocks += [f"{title} {count}", f"FIELD FieldData {len(arrays)}"]
        for name, values in arrays.items():
            kind = "float" if values and isinstance(values[0], float) else "int"
            blocks += [f"{name} 1 {count} {kind}", " ".join(f"{value:.6g}" for value in values)]
    return "\n".join(blocks) + "\n"
