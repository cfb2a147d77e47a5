import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.evaluation.metrics import Comparison, compare, evaluate_case
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize
from nnunetv2_airway.tree.branches import Branch
from nnunetv2_airway.tree.parse import parse_tree

SPACING = (2.5, 0.8, 0.6)
VOXEL = float(np.prod(SPACING))
OFFICIAL = {
    "tree_length_detected": 2,
    "branches_detected": 0,
    "branch_detected": 2,
    "dice": 2,
    "precision": 3,
    "sensitivity": 3,
    "specificity": 3,
}
"""Digits that the official code prints."""


@pytest.mark.parametrize("case", ["ATM_305", pytest.param("ATM_384", marks=pytest.mark.slow)])
def test_every_digit_is_the_official_one(reference, case):
    folder = reference / "atm22" / case
    expected = json.loads((folder / "expected.json").read_text())
    image = sitk.ReadImage(str(folder / expected["reference_mask"]))
    tree = parse_tree(sitk.GetArrayFromImage(image))
    assert len(expected["predictions"]) == 4
    for team, figures in expected["predictions"].items():
        prediction = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{team}.nii.gz")))
        ours = compare(prediction, tree, image.GetSpacing()[::-1]).figures()
        assert {name: round(ours[name], digits) for name, digits in OFFICIAL.items()} == figures, team


def phantom_pair() -> tuple[np.ndarray, np.ndarray]:
    """A phantom's tree, and the same with a lobe cut off, surface lost, and leaks."""
    options = PhantomOptions(shape=(72, 64, 80), spacing=(1.5, 1.0, 1.2), smallest=0.9)
    reference = synthesize(options, 3)[1]
    prediction = reference.copy()
    prediction[:, :, :34] = 0
    rng = np.random.default_rng(0)
    prediction[rng.random(prediction.shape) < 0.2] = 0
    prediction[rng.random(prediction.shape) < 0.002] = 1
    return prediction, reference


def test_the_challenge_s_figures_from_their_definitions_on_whole_volumes():
    prediction, reference = phantom_pair()
    tree = parse_tree(reference)
    labels, skeleton, airway = tree.labels, tree.skeleton, tree.labels > 0
    figures = evaluate_case(prediction, reference, SPACING)
    branches = range(1, tree.num_branches + 1)
    shares = [prediction[skeleton & (labels == k)].mean() for k in branches]
    true = np.count_nonzero(airway & (prediction > 0))
    expected = {
        "tree_length_detected": 100 * prediction[skeleton].mean(),
        "branches": tree.num_branches,
        "branches_detected": sum(share >= 0.8 for share in shares),
        "branch_detected": 100 * np.mean([share >= 0.8 for share in shares]),
        "dice": 200 * true / (prediction.sum() + airway.sum()),
        "precision": 100 * true / prediction.sum(),
        "sensitivity": 100 * true / airway.sum(),
        "specificity": 100 * np.count_nonzero(~airway & (prediction == 0)) / np.count_nonzero(~airway),
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert 0 < expected["branches_detected"] < expected["branches"]


def test_groups_divide_the_whole():
    prediction, reference = phantom_pair()
    figures = evaluate_case(prediction, reference, SPACING)
    comparison = compare(prediction, reference, SPACING)
    for groups in (figures["by_diameter"], figures["by_generation"]):
        for name in ("branches", "branches_detected"):
            assert sum(group[name] for group in groups.values()) == figures[name]
    assert figures["without_trachea"]["branches"] == figures["branches"] - 1
    assert comparison.voxels_false.sum() == np.count_nonzero((prediction > 0) & (parse_tree(reference).labels == 0))
    assert list(figures["by_generation"]) == [str(k) for k in range(len(figures["by_generation"]))]
    limits = {"0-2": (0, 2), "2-4": (2, 4), "4-8": (4, 8), ">8": (8, np.inf)}
    for name, (low, high) in limits.items():
        inside = [low < branch.diameter <= high for branch in comparison.branches]
        assert figures["by_diameter"][name]["branches"] == sum(inside)
        if any(inside):
            found, line = comparison.line_found[inside].sum(), comparison.line[inside].sum()
            assert figures["by_diameter"][name]["tree_length_detected"] == pytest.approx(100 * found / line)


def test_one_branch_missed_and_one_leak_by_hand(fork):
    reference = fork()
    tree = parse_tree(reference)
    trachea, left, right = (int(tree.labels[place]) for place in ((45, 19, 30), (8, 19, 13), (8, 19, 47)))
    prediction = reference.copy()
    prediction[tree.labels == right] = 0
    prediction[3:7, 22:26, 8:12] = 1  # nearest to the left branch
    prediction[40:44, 22:24, 28:33] = 1  # beside the trachea
    figures = evaluate_case(prediction, reference, SPACING)
    whole, without = figures, figures["without_trachea"]
    length = {k: np.count_nonzero(tree.line_branch == k) for k in (trachea, left, right)}
    volume = {k: np.count_nonzero(tree.labels == k) for k in (trachea, left, right)}
    assert whole["branches"] == 3 and whole["branches_detected"] == 2
    assert whole["branch_detected"] == pytest.approx(200 / 3)
    assert whole["tree_length_detected"] == pytest.approx(100 * (1 - length[right] / len(tree.line)))
    assert without["branches"] == 2 and without["branch_detected"] == 50
    assert without["tree_length_detected"] == pytest.approx(100 * length[left] / (length[left] + length[right]))
    assert without["precision"] == pytest.approx(100 * volume[left] / (volume[left] + 64))
    assert without["sensitivity"] == pytest.approx(100 * volume[left] / (volume[left] + volume[right]))
    assert whole["precision"] == pytest.approx(
        100 * (volume[trachea] + volume[left]) / (volume[trachea] + volume[left] + 64 + 40)
    )
    assert figures["by_generation"]["0"]["branch_detected"] == 100
    assert figures["by_generation"]["1"] == without


def branch(number: int, diameter: float, generation: int = 1) -> Branch:
    return Branch(number, generation, 0, 10.0, diameter, (0, 0, 0), (0, 0, 0))


def counted(diameters, line, found, generations=None) -> Comparison:
    """A comparison of branches with these diameters and centerline voxels, and all voxels found."""
    generations = generations or [1] * len(diameters)
    branches = [branch(k, d, g) for k, (d, g) in enumerate(zip(diameters, generations, strict=True), start=1)]
    line, voxels = np.array(line), np.full(len(line), 100)
    return Comparison(
        branches, line, np.array(found), 0.5 * np.array(found), voxels, voxels, 0 * voxels, 0, 1, 1000, 1.0
    )


def test_a_branch_is_detected_from_80_percent_of_its_centerline_on():
    comparison = counted([1] * 6, [10, 5, 15, 10**5, 10**5, 3], [8, 4, 12, 80000, 79999, 2])
    assert comparison.detected.tolist() == [True, True, True, True, False, False]


def test_the_upper_limit_belongs_to_the_class_of_diameter():
    comparison = counted([0.5, 2.0, 2.001, 4.0, 8.0, 8.001, 20.0], [10] * 7, [10] * 7)
    classes = comparison.figures()["by_diameter"]
    assert {name: group["branches"] for name, group in classes.items()} == {"0-2": 2, "2-4": 2, "4-8": 1, ">8": 2}


def trifurcated() -> np.ndarray:
    """Trachea, two main bronchi, and four straight bronchi of the second generation, along x at y = 14 and 26."""
    mask = np.zeros((60, 40, 80), np.uint8)
    mask[35:, 18:23, 38:43] = 1
    mask[32:37, 18:23, 20:61] = 1
    for x in (20, 58):
        mask[32:35, 6:35, x : x + 3] = 1
    return mask


def test_figures_of_exact09_by_hand():
    reference = trifurcated()
    tree = parse_tree(reference)
    assert np.bincount(tree.generations).tolist() == [1, 2, 4]
    place = (33, 8, 21)  # in a bronchus of generation 2
    bronchus = int(tree.labels[place])
    assert tree.generations[bronchus - 1] == 2
    prediction = reference.copy()
    prediction[tree.labels == bronchus] = 0
    prediction[55:58, 24:30, 38:43] = 1  # beside the trachea: no leak
    prediction[32:35, 35, 20:23] = 1  # one voxel beyond the end of a bronchus: not a leak to count, but volume
    prediction[35, 35, 61] = 1  # touches the corner of another: the same
    prediction[20:30, 30:33, 58:61] = 1  # two voxels below another bronchus: a leak
    exact = evaluate_case(prediction, reference, SPACING)["exact09"]
    assert exact["branch_count"] == 5 and exact["branch_detected"] == pytest.approx(100 * 5 / 6)
    assert exact["leakage_count"] == 1
    false = 9 + 1 + 10 * 3 * 3
    assert exact["leakage_volume_mm3"] == pytest.approx(false * VOXEL)
    kept = sum(
        np.count_nonzero(tree.labels == k + 1) for k in range(7) if tree.generations[k] == 2 and k + 1 != bronchus
    )
    assert exact["false_positive_rate"] == pytest.approx(100 * false / (false + kept))
    assert exact["precision"] == pytest.approx(100 - exact["false_positive_rate"])
    # the bronchi run along y, so that each step is 0.8 mm; half a step to the main bronchus is shared
    length = evaluate_case(reference, reference, SPACING)["exact09"]["tree_length_cm"]
    lost = np.count_nonzero(tree.line_branch == bronchus) * 0.08
    assert exact["tree_length_cm"] == pytest.approx(length - lost, abs=0.12)
    assert exact["tree_length_detected"] == pytest.approx(100 * exact["tree_length_cm"] / length)


def test_a_branch_of_which_more_than_a_millimetre_is_found_counts_for_exact09():
    reference = trifurcated()
    tree = parse_tree(reference)
    bronchus = int(tree.labels[33, 8, 21])
    line = tree.line[tree.line_branch == bronchus]
    spacing = (2.5, 0.6, 0.8)  # 0.6 mm a voxel along the bronchus
    for voxels, count in ((0, 5), (1, 5), (2, 6)):
        prediction = np.where(tree.labels == bronchus, 0, reference)
        middle = len(line) // 2
        prediction[tuple(line[middle : middle + voxels].T)] = 1
        assert evaluate_case(prediction, reference, spacing)["exact09"]["branch_count"] == count


def test_a_perfect_prediction(fork):
    reference = fork()
    figures = evaluate_case(reference, reference, SPACING)
    for name in ("tree_length_detected", "branch_detected", "dice", "precision", "sensitivity", "specificity"):
        assert figures[name] == 100
    assert figures["connected_components"] == 1
    assert figures["exact09"]["leakage_count"] == figures["exact09"]["leakage_volume_mm3"] == 0


def test_only_the_reference_is_reduced_to_its_largest_component(fork):
    reference = fork()
    with_islands = reference.copy()
    with_islands[2:5, 2:6, 2:6] = 1
    with_islands[2, 30, 50] = 1
    # as text, because nan is not equal to itself
    found, expected = (compare(reference, each, SPACING).figures() for each in (with_islands, reference))
    assert str(found) == str(expected)
    figures = evaluate_case(with_islands, reference, SPACING)
    assert figures["connected_components"] == 3
    assert figures["precision"] == pytest.approx(100 * reference.sum() / (reference.sum() + 3 * 4 * 4 + 1))


def test_an_empty_prediction_finds_nothing(fork):
    figures = evaluate_case(np.zeros_like(fork()), fork(), SPACING)
    for name in ("tree_length_detected", "branches_detected", "branch_detected", "dice", "precision", "sensitivity"):
        assert figures[name] == 0
    assert figures["specificity"] == 100 and figures["connected_components"] == 0
    assert figures["exact09"]["branch_count"] == figures["exact09"]["tree_length_cm"] == 0
    assert np.isnan(figures["exact09"]["false_positive_rate"])
    assert evaluate_case(np.zeros_like(trifurcated()), trifurcated(), SPACING)["exact09"]["precision"] == 0


def test_an_empty_reference_leaves_undefined_what_it_would_divide_by():
    empty, prediction = np.zeros((5, 6, 7)), np.zeros((5, 6, 7))
    prediction[2, 2:5, 3] = 1
    figures = evaluate_case(prediction, empty, SPACING)
    assert (
        figures["branches"] == 0 and np.isnan(figures["tree_length_detected"]) and np.isnan(figures["branch_detected"])
    )
    assert figures["dice"] == figures["precision"] == 0 and np.isnan(figures["sensitivity"])
    assert figures["specificity"] == pytest.approx(100 * 207 / 210)
    assert figures["exact09"]["leakage_volume_mm3"] == pytest.approx(3 * VOXEL)
    both = evaluate_case(empty, empty, SPACING)
    assert np.isnan(both["dice"]) and both["specificity"] == 100 and both["connected_components"] == 0


def test_spacing_scales_what_is_in_mm_and_nothing_else():
    prediction, reference = phantom_pair()
    small, large = (evaluate_case(prediction, reference, np.array(SPACING) * factor) for factor in (1, 3))
    assert large["exact09"]["tree_length_cm"] == pytest.approx(3 * small["exact09"]["tree_length_cm"])
    assert large["exact09"]["leakage_volume_mm3"] == pytest.approx(27 * small["exact09"]["leakage_volume_mm3"])
    for name in ("by_generation", "without_trachea", "dice", "tree_length_detected"):
        assert small[name] == large[name]


def test_arguments_are_checked(fork):
    with pytest.raises(ValueError, match=r"same shape, got \(50, 40, 59\) and \(50, 40, 60\)"):
        evaluate_case(fork()[..., :-1], fork(), SPACING)
    for spacing in ((1, 1), (1, 0, 1), (1, np.nan, 1), 1.0):
        with pytest.raises(ValueError, match="three positive numbers in mm"):
            evaluate_case(fork(), fork(), spacing)
