import json

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from skimage.morphology import skeletonize

from nnunetv2_airway.cli import evaluate
from nnunetv2_airway.evaluation.challenges import challenge_figures, start_thinning
from nnunetv2_airway.evaluation.metrics import evaluate_case
from nnunetv2_airway.phantom.model import PhantomOptions, synthesize
from nnunetv2_airway.tree.parse import parse_tree

SPACING = (2.5, 0.8, 0.6)
CORNERS = np.ones((3, 3, 3))


TEAMS = ("SanmedAI", "YangLab", "neu204", "timi")


@pytest.mark.parametrize(
    ("case", "teams"),
    [
        ("ATM_305", TEAMS[:1]),
        pytest.param("ATM_305", TEAMS[1:], marks=pytest.mark.slow),
        pytest.param("ATM_384", TEAMS, marks=pytest.mark.slow),
    ],
)
def test_figures_are_those_of_the_official_functions(reference, case, teams):
    def read(team: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(reference / "atm22" / case / f"{team}.nii.gz")))

    expected = {
        name: json.loads((reference / f"{name}_expected.json").read_text())[case] for name in ("atm26", "aiib23")
    }
    mask = read("deeptree_damo")
    tree = parse_tree(mask)
    assert set(expected["atm26"]) == set(expected["aiib23"]) == set(TEAMS)
    for team in teams:
        prediction = read(team)
        ours = challenge_figures(prediction, mask, tree, start_thinning(prediction, mask))
        for name, figures in expected.items():
            assert ours[name] == pytest.approx(figures[team], rel=0, abs=1e-9), team


def pair() -> tuple[np.ndarray, np.ndarray]:
    """A prediction in pieces, of which two touch at a corner alone, and a reference with an island and a hole."""
    options = PhantomOptions(shape=(72, 64, 80), spacing=(1.5, 1.0, 1.2), smallest=0.9)
    reference = synthesize(options, 3)[1]
    prediction = reference.copy()
    prediction[:, :, :34] = 0
    prediction[np.random.default_rng(0).random(prediction.shape) < 0.1] = 0
    prediction[60:64, 2:5, 2:5] = prediction[64:66, 5:7, 5:7] = prediction[60:64, 2:5, 40:45] = 1
    reference[2:5, 2:4, 60:75] = 1
    deep = np.unravel_index(ndimage.distance_transform_edt(reference).argmax(), reference.shape)
    reference[deep] = 0
    return prediction, reference


def largest(mask: np.ndarray, structure: np.ndarray | None = None) -> np.ndarray:
    labels, number = ndimage.label(mask, structure)
    return labels == 1 + np.argmax(ndimage.sum(mask, labels, range(1, number + 1)))


def test_figures_from_their_definitions_on_whole_volumes():
    prediction, reference = pair()
    predicted, wanted = prediction > 0, reference > 0
    figures = evaluate_case(prediction, reference, SPACING)
    tree = parse_tree(reference)
    line, own_line = tree.skeleton, skeletonize(predicted) > 0
    kept = largest(predicted, CORNERS)
    branches = [kept[line & (tree.labels == k)].mean() >= 0.8 for k in range(1, tree.num_branches + 1)]
    precise, sensitive = wanted[own_line].mean(), predicted[line].mean()
    assert figures["atm26"] == pytest.approx(
        {
            "DSC": (2 * (predicted & wanted).sum() + 1e-5) / (predicted.sum() + wanted.sum() + 1e-5),
            "clDice": 2 * precise * sensitive / (precise + sensitive),
            "TLD": (kept[line].sum() + 1e-5) / (line.sum() + 1e-5),
            "BD": np.mean(branches),
            "Betti0Error": ndimage.label(predicted, CORNERS)[1] - 1,
            "branch_detected": sum(branches),
            "branch_total": tree.num_branches,
        }
    )
    assert 0 < sum(branches) < tree.num_branches and figures["atm26"]["Betti0Error"] > 1

    kept = largest(predicted)
    clean = ndimage.binary_fill_holes(largest(wanted))
    thin = skeletonize(clean) > 0
    cut = thin & (ndimage.convolve(thin.astype(int), CORNERS.astype(int), mode="constant") <= 3)
    pieces, number = ndimage.label(cut, CORNERS)
    sizes = ndimage.sum(cut, pieces, range(number + 1))
    long = np.flatnonzero(sizes >= 5)
    nearest = ndimage.distance_transform_edt(~np.isin(pieces, long), return_distances=False, return_indices=True)
    parsed, line = np.where(clean, pieces[tuple(nearest)], 0), skeletonize(wanted) > 0
    found = [kept[line & (parsed == k)].mean() >= 0.8 for k in long]
    common = (kept & wanted).sum()
    assert figures["aiib23"] == pytest.approx(
        {
            "IoU": common / (kept | wanted).sum(),
            "DLR": kept[line].mean(),
            "DBR": np.mean(found),
            "precision": common / kept.sum(),
            "leakage": (kept & ~wanted).sum() / wanted.sum(),
            "AMR": (wanted & ~kept).sum() / wanted.sum(),
            "branches": len(long),
            "branches_detected": sum(found),
        }
    )
    assert 0 < sum(found) < len(long) and figures["aiib23"]["DLR"] < figures["atm26"]["TLD"]


def test_the_tree_of_a_reference_stands_for_it(fork):
    prediction, tree = fork(12), parse_tree(fork())
    of_tree, of_mask = (evaluate_case(prediction, each, SPACING) for each in (tree, fork()))
    for name in ("atm26", "aiib23"):
        assert of_tree[name] == of_mask[name]
        assert all(0 < value <= 1 for key, value in of_tree[name].items() if key in ("DSC", "TLD", "IoU", "DLR"))
    with_island = fork()
    with_island[2:5, 2:4, 40:56] = 1  # which the tree leaves out
    of_tree, of_mask = (evaluate_case(prediction, each, SPACING) for each in (parse_tree(with_island), with_island))
    assert of_mask["dice"] == of_tree["dice"] and of_mask["atm26"]["TLD"] == of_tree["atm26"]["TLD"]
    assert of_mask["atm26"]["DSC"] < of_tree["atm26"]["DSC"] and of_mask["aiib23"]["DLR"] < of_tree["aiib23"]["DLR"]
    assert of_mask["aiib23"]["AMR"] > of_tree["aiib23"]["AMR"]


def test_nothing_predicted_and_nothing_to_find(fork):
    empty = np.zeros_like(fork())
    nothing = evaluate_case(empty, fork(), SPACING)
    assert nothing["atm26"] == pytest.approx(
        {"DSC": 0, "clDice": 0, "TLD": 0, "BD": 0, "Betti0Error": 1, "branch_detected": 0, "branch_total": 3}, abs=1e-6
    )
    names = ("IoU", "DLR", "DBR", "precision", "leakage", "branches_detected")
    assert {name: nothing["aiib23"][name] for name in names} == dict.fromkeys(names, 0)
    assert nothing["aiib23"]["AMR"] == 1
    false = evaluate_case(fork(), empty, SPACING)
    assert false["atm26"]["DSC"] < 1e-6 and false["atm26"]["clDice"] == 0 and np.isnan(false["atm26"]["BD"])
    assert false["aiib23"]["IoU"] == false["aiib23"]["precision"] == false["aiib23"]["branches"] == 0
    assert all(np.isnan(false["aiib23"][name]) for name in ("DLR", "DBR", "leakage", "AMR"))


def test_the_command_s_table_and_what_atm26_refuses(folders, fork, write_mask, in_this_process, capsys):
    references, predictions, output = folders
    write_mask(predictions / "half.nrrd", fork(12), origin=(-100.0, 20.01, 300.0))
    write_mask(references / "whole.nii.gz", fork(), origin=(0.0, 20.0, 300.0))
    write_mask(predictions / "whole.nrrd", fork(), origin=(5e-7, 20.0001, 300.0))
    line = ["-ref", str(references), "-pred", str(predictions), "-o", str(output)]
    expected = evaluate_case(fork(12), fork(), SPACING)
    for challenge, heads in (
        ("atm26", ["DSC", "clDice", "TLD", "BD", "Betti0Error"]),
        ("aiib23", ["IoU", "DLR", "DBR", "precision", "leakage", "AMR"]),
    ):
        evaluate.main([*line, "--challenge", challenge.upper()])
        out = capsys.readouterr().out
        rows = [row.split() for row in out.splitlines()]
        assert ["case", *heads] in rows
        values = next(row for row in rows if row[:1] == ["half"])[1:]
        assert list(map(float, values)) == pytest.approx([expected[challenge][head] for head in heads], abs=5e-5)
        assert ("half: WARNING: spacing, origin or direction" in out) == (challenge == "atm26")
        assert "whole: WARNING" not in out and "length %" not in out
    header, row, *_ = (output / "cases.csv").read_text().splitlines()
    of_half = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(of_half["atm26.clDice"]) == pytest.approx(expected["atm26"]["clDice"])
    assert float(of_half["aiib23.AMR"]) == pytest.approx(expected["aiib23"]["AMR"])
