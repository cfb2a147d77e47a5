"""Figures of one prediction against its reference.

Sources: ATM'22 is the challenge's official evaluation (Zhang et al., Medical Image Analysis 90, 2023, 102957), with
which the figures agree digit for digit; EXACT'09 is Lo et al., IEEE TMI 31(11), 2012; the classes of airway diameter
are those of Zheng et al., IEEE TMI 40(9), 2021, figure 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_airway.evaluation.challenges import DETECTED, challenge_figures, start_thinning
from nnunetv2_airway.tree.branches import Branch, line_lengths, measure_branches, nearest_branch
from nnunetv2_airway.tree.centerline import checked_spacing
from nnunetv2_airway.tree.components import bounding_box, count_components, with_neighbours
from nnunetv2_airway.tree.parse import AirwayTree, parse_tree

EXACT_LENGTH = 1.0
"""Length of a branch's centerline in mm that has to lie in the prediction (EXACT'09)."""
DIAMETERS = {"0-2": (0, 2), "2-4": (2, 4), "4-8": (4, 8), ">8": (8, np.inf)}
"""Classes of airway diameter in mm; the upper limit belongs to the class (Zheng 2021, figure 6)."""


@dataclass(frozen=True)
class Comparison:
    """A prediction counted branch by branch of its reference; arrays are (B,), branch k at index k - 1.

    A voxel outside the reference belongs to the branch whose centerline is nearest in mm.

    Args:
        branches: of the reference.
        line: voxels of each branch's centerline.
        line_found: those of them in the prediction.
        length_found: their length in mm.
        voxels: of each branch.
        voxels_found: those of them in the prediction.
        voxels_false: of the prediction, outside the reference; (B,), or (1,) where the reference is empty.
        leaks: number of leaks.
        components: connected components of the prediction.
        volume: voxels of the whole image.
        voxel_volume: in mm3.
    """

    branches: list[Branch]
    line: np.ndarray
    line_found: np.ndarray
    length_found: np.ndarray
    voxels: np.ndarray
    voxels_found: np.ndarray
    voxels_false: np.ndarray
    leaks: int
    components: int
    volume: int
    voxel_volume: float

    @property
    def detected(self) -> np.ndarray:
        """Which branches are detected (B,) bool: at least 80 % of their centerline voxels (ATM'22)."""
        return self.line_found / self.line >= DETECTED

    def figures(self) -> dict:
        """Compute all figures, by the names and definitions of ``evaluate_case``."""
        generation = np.array([branch.generation for branch in self.branches], int)
        diameter = np.array([branch.diameter for branch in self.branches])
        background = self.volume - self.voxels.sum()
        return {
            **self._figures(np.full(len(self.branches), True)),
            "specificity": 100 - percent(self.voxels_false.sum(), background),
            "connected_components": self.components,
            "without_trachea": self._figures(generation > 0),
            "by_diameter": {
                name: self._figures((low < diameter) & (diameter <= high)) for name, (low, high) in DIAMETERS.items()
            },
            "by_generation": {
                str(number): self._figures(generation == number) for number in range(generation.max(initial=-1) + 1)
            },
            "exact09": self._exact_figures(generation),
        }

    def _false(self, chosen: np.ndarray) -> int:
        """Count the false voxels of chosen branches (B,) bool, all of them where the reference has no branches."""
        return (self.voxels_false[chosen] if self.branches else self.voxels_false).sum()

    def _figures(self, chosen: np.ndarray) -> dict:
        found, false, voxels = self.voxels_found[chosen].sum(), self._false(chosen), self.voxels[chosen].sum()
        return {
            "tree_length_detected": percent(self.line_found[chosen].sum(), self.line[chosen].sum()),
            "branches": int(chosen.sum()),
            "branches_detected": int(self.detected[chosen].sum()),
            "branch_detected": percent(self.detected[chosen].sum(), chosen.sum()),
            "dice": percent(2 * found, found + false + voxels),
            "precision": percent(found, found + false) if found + false or not voxels else 0.0,
            "sensitivity": percent(found, voxels),
        }

    def _exact_figures(self, generation: np.ndarray) -> dict:
        airways, leaky = generation > 0, generation > 1
        length = np.array([branch.length for branch in self.branches])
        count = int((self.length_found[airways] > EXACT_LENGTH).sum())
        false = self._false(leaky)
        return {
            "branch_count": count,
            "branch_detected": percent(count, airways.sum()),
            "tree_length_cm": float(self.length_found[airways].sum() / 10),
            "tree_length_detected": percent(self.length_found[airways].sum(), length[airways].sum()),
            "leakage_count": self.leaks,
            "leakage_volume_mm3": float(false * self.voxel_volume),
            "false_positive_rate": percent(false, false + self.voxels_found[leaky].sum()),
            "precision": self._figures(leaky)["precision"],
        }


def evaluate_case(prediction: np.ndarray, reference: np.ndarray | AirwayTree, spacing: Sequence[float]) -> dict:
    """Compute all figures of a prediction.

    The reference is reduced to its largest 6-connected component with holes filled, the prediction taken as it is
    (ATM'22); ``atm26`` and ``aiib23`` also look at the reference as it is. A figure is nan where it would divide by
    nothing; only precision is 0 where nothing is predicted of what there is, so that an empty prediction cannot raise a
    mean (the official code of ATM'22 gives 100).

    Args:
        prediction: (Z, Y, X), airway where > 0.
        reference: same shape, or the tree that ``parse_tree`` made of it; then ``atm26`` and ``aiib23`` have to do
            without what that leaves out.
        spacing: (z, y, x) in mm.

    Returns:
        Figures by name, percent where nothing else is said.

        - ``tree_length_detected``: centerline voxels of the reference that lie in the prediction (ATM'22).
        - ``branches``, ``branches_detected``: number of branches, and of those with at least 80 % of their centerline
          voxels in the prediction; ``branch_detected``: the latter over the former (ATM'22).
        - ``dice``: 2 TP / (2 TP + FP + FN) over voxels; ``precision``: TP / (TP + FP); ``sensitivity``: TP / (TP + FN);
          ``specificity``: TN / (TN + FP) over the whole image (ATM'22).
        - ``connected_components``: number of 26-connected components of the prediction; a tree is one.
        - ``without_trachea``: the first seven without the trachea, generation 0. A predicted voxel outside the
          reference counts for the branch whose centerline is nearest, here and in the groups below.
        - ``by_diameter``: the same for branches with a mean diameter of 0-2, 2-4, 4-8 and > 8 mm (Zheng 2021, fig. 6).
        - ``by_generation``: the same for each generation.
        - ``exact09``: the figures of EXACT'09. All leave out the trachea; those of leakage also the main bronchi, here
          every branch of generation 1. In EXACT'09 people judged each branch, here the reference does.

          - ``branch_count``: branches with more than 1 mm of centerline in the prediction; ``branch_detected``: their
            share.
          - ``tree_length_cm``: centerline in the prediction, in cm; ``tree_length_detected``: its share.
          - ``leakage_count``: 26-connected groups of predicted voxels that touch no voxel of the reference, not even
            at a corner: a wall drawn one voxel too far out is no leak.
          - ``leakage_volume_mm3``: volume of all predicted voxels outside the reference.
          - ``false_positive_rate``: their share of the predicted voxels; ``precision``: 100 minus that, or 0 as above.

        - ``atm26``: the figures of ATM'26, track 1, as shares.

          - ``DSC``: Dice, with 1e-5 added to numerator and denominator.
          - ``clDice``: harmonic mean of the shares of the reference's centerline in the prediction and of the
            prediction's in the reference; 0 where either has none.
          - ``TLD``: share of the reference's centerline in the largest 26-connected component of the prediction, with
            1e-5 as above; ``BD``: share of branches of which 80 % of the centerline lies there, that is
            ``branch_detected`` of ``branch_total``.
          - ``Betti0Error``: by how much the number of 26-connected components of the prediction differs from 1.

        - ``aiib23``: the figures of AIIB23, as shares, of the prediction's largest 6-connected component P and the
          reference R.

          - ``IoU``: |P and R| / |P or R|; ``precision``: |P and R| / |P|; ``leakage``: |P without R| / |R|; ``AMR``:
            |R without P| / |R|.
          - ``DLR``: share of R's centerline in P; ``DBR``: share of R's pieces, branches before they are merged, of
            which 80 % of the centerline lies in P, that is ``branches_detected`` of ``branches``.

    Raises:
        ValueError: the shapes differ, or the spacing is not three positive numbers.

    >>> reference = np.zeros((24, 9, 9), bool)
    >>> reference[:, 3:6, 3:6] = True
    >>> prediction = reference.copy()
    >>> prediction[:4] = False
    >>> figures = evaluate_case(prediction, reference, (1.0, 0.7, 0.7))
    >>> round(figures["tree_length_detected"], 1), figures["branch_detected"], figures["precision"]
    (83.3, 100.0, 100.0)
    """
    is_tree = isinstance(reference, AirwayTree)
    mask = reference.labels if is_tree else reference
    _require_same_shape(prediction, mask)
    lines = start_thinning(prediction, mask)
    tree = reference if is_tree else parse_tree(mask)
    comparison = compare(prediction, tree, spacing)
    return {**comparison.figures(), **challenge_figures(prediction, mask, tree, lines)}


def compare(prediction: np.ndarray, reference: np.ndarray | AirwayTree, spacing: Sequence[float]) -> Comparison:
    """Count a prediction branch by branch; arguments and errors are those of ``evaluate_case``."""
    spacing = checked_spacing(spacing)
    _require_same_shape(prediction, reference)
    prediction = np.asarray(prediction) > 0
    tree = reference if isinstance(reference, AirwayTree) else parse_tree(reference)
    airway = tree.labels > 0
    outside = prediction & ~airway
    # outside the box of both there is nothing to count
    box = bounding_box(prediction | airway) or (slice(0),) * 3
    leak = np.zeros_like(prediction[box])
    if tree.num_branches:
        nearest = nearest_branch(tree, outside, spacing)
        leak[outside[box]] = tree.generations[nearest - 1] > 1
    else:
        nearest = np.ones(np.count_nonzero(outside), int)
        leak[outside[box]] = True
    leak &= ~with_neighbours(airway[box])
    line_found = prediction[tuple(tree.line.T)]

    def count(branch: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(branch, weights, minlength=tree.num_branches + 1)[1:]

    return Comparison(
        branches=measure_branches(tree, spacing),
        line=count(tree.line_branch),
        line_found=count(tree.line_branch[line_found]),
        length_found=count(tree.line_branch, line_lengths(tree, spacing) * line_found),
        voxels=count(tree.voxel_branch),
        voxels_found=count(tree.voxel_branch[prediction[tuple(tree.voxels.T)]]),
        voxels_false=count(nearest),
        leaks=count_components(leak),
        components=count_components(prediction),
        volume=prediction.size,
        voxel_volume=float(spacing.prod()),
    )


def _require_same_shape(prediction: np.ndarray, reference: np.ndarray | AirwayTree) -> None:
    shapes = np.shape(prediction), tuple(reference.shape)
    if shapes[0] != shapes[1]:
        raise ValueError(f"prediction and reference must have the same shape, got {shapes[0]} and {shapes[1]}")


def percent(part: float, whole: float) -> float:
    """Give a part of a whole in percent, nan where the whole is nothing."""
    return float(100 * part / whole) if whole else float("nan")
