"""Figures of the challenges ATM'26 (track 1) and AIIB23, as shares, by the names that these challenges give them.

Sources: the challenges' official functions (Airway-Tree-Modeling-26 and AIIB23 on GitHub), with which they agree.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from nnunetv2_airway.tree.centerline import thinned
from nnunetv2_airway.tree.components import bounding_box, connected_components, largest_piece
from nnunetv2_airway.tree.parse import AirwayTree, pieces_of_line

DETECTED = 0.8
"""Share of a branch's centerline that has to lie in the prediction, in ATM'22 and in both challenges here."""
SMOOTH = 1e-5

Thinned = tuple["Future[np.ndarray]", "Future[np.ndarray]"]
"""Centerlines of prediction and reference, (Z, Y, X) bool, which scikit-image makes while Python does other work."""


def start_thinning(prediction: np.ndarray, reference: np.ndarray) -> Thinned:
    """Start to thin a prediction and a reference, which takes longer than all the rest."""
    with_both = ThreadPoolExecutor(2)
    both = tuple(with_both.submit(thinned, np.asarray(mask) > 0) for mask in (prediction, reference))
    with_both.shutdown(wait=False)
    return both


def challenge_figures(
    prediction: np.ndarray, reference: np.ndarray, tree: AirwayTree, lines: Thinned
) -> dict[str, dict]:
    """Compute the figures of both challenges.

    Args:
        prediction: (Z, Y, X), airway where > 0.
        reference: same shape, as it is.
        tree: its parsed tree.
        lines: what ``start_thinning`` has started for both.

    Returns:
        ``atm26`` and ``aiib23`` as ``evaluate_case`` has them.
    """
    prediction, reference = np.asarray(prediction) > 0, np.asarray(reference) > 0
    box = bounding_box(prediction | reference) or (slice(0),) * 3
    corner = np.array([side.start or 0 for side in box])
    own_line, line = (np.argwhere(each.result()[box]) for each in lines)
    masks, tree_line = (prediction[box], reference[box]), tree.line - corner
    piece = pieces_of_line(tree, line + corner)
    return {"atm26": _atm26(*masks, own_line, tree_line, tree), "aiib23": _aiib23(*masks, line, *piece)}


def _atm26(
    prediction: np.ndarray, reference: np.ndarray, own_line: np.ndarray, tree_line: np.ndarray, tree: AirwayTree
) -> dict:
    precise = _share(np.count_nonzero(reference[tuple(own_line.T)]), len(own_line), or_else=0.0)
    sensitive = _share(np.count_nonzero(prediction[tuple(tree_line.T)]), len(tree_line), or_else=0.0)
    pieces = connected_components(prediction, connectivity=26)
    sizes = np.bincount(pieces.ravel(), minlength=1)
    largest = sizes[1:].argmax() + 1 if len(sizes) > 1 else -1
    found = pieces[tuple(tree_line.T)] == largest
    detected = _detected(tree.line_branch - 1, found, tree.num_branches)
    common, predicted, wanted = _voxels(prediction, reference)
    return {
        "DSC": float((2 * common + SMOOTH) / (predicted + wanted + SMOOTH)),
        "clDice": _share(2 * precise * sensitive, precise + sensitive, or_else=0.0),
        "TLD": float((np.count_nonzero(found) + SMOOTH) / (len(found) + SMOOTH)),
        "BD": _share(detected, tree.num_branches),
        "Betti0Error": abs(len(sizes) - 2),
        "branch_detected": detected,
        "branch_total": tree.num_branches,
    }


def _aiib23(prediction: np.ndarray, reference: np.ndarray, line: np.ndarray, piece: np.ndarray, pieces: int) -> dict:
    prediction = largest_piece(prediction, connectivity=6)
    found = prediction[tuple(line.T)]
    detected = _detected(piece[piece >= 0], found[piece >= 0], pieces)
    common, predicted, wanted = _voxels(prediction, reference)
    return {
        "IoU": _share(common, predicted + wanted - common),
        "DLR": _share(np.count_nonzero(found), len(found)),
        "DBR": _share(detected, pieces),
        "precision": _share(common, predicted, or_else=0.0 if wanted else np.nan),
        "leakage": _share(predicted - common, wanted),
        "AMR": _share(wanted - common, wanted),
        "branches": pieces,
        "branches_detected": detected,
    }


def _voxels(prediction: np.ndarray, reference: np.ndarray) -> tuple[int, int, int]:
    """Count voxels of both masks (Z, Y, X) bool together, of the prediction, and of the reference."""
    return tuple(int(np.count_nonzero(mask)) for mask in (prediction & reference, prediction, reference))


def _detected(piece: np.ndarray, found: np.ndarray, pieces: int) -> int:
    """Count detected pieces, from the piece of each centerline voxel and whether the voxel was found, (N,) both."""
    line = np.bincount(piece, minlength=pieces)
    return int(np.count_nonzero(np.bincount(piece, found, minlength=pieces) / np.maximum(line, 1) >= DETECTED))


def _share(part: float, whole: float, or_else: float = np.nan) -> float:
    return float(part / whole if whole else or_else)
