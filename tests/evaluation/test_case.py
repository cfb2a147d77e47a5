import numpy as np
import pytest

from nnunetv2_airway.evaluation import case as module
from nnunetv2_airway.evaluation.folder import evaluate_folder
from nnunetv2_airway.evaluation.metrics import compare, evaluate_case
from nnunetv2_airway.tree.parse import parse_tree

pytestmark = pytest.mark.usefixtures("in_this_process")

SPACING = (2.5, 0.8, 0.6)
FLIPPED = (0, 0, -1, -1, 0, 0, 0, 1, 0)


@pytest.mark.slow
def test_trees_of_the_reference_are_kept_in_the_output_and_made_again_when_they_do_not_fit(
    folders, monkeypatch, fork, write_mask
):
    references, predictions, output = folders
    before = sorted(references.parent.rglob("*"))
    evaluate_folder(references, predictions, output)
    assert [file for file in sorted(references.parent.rglob("*")) if output not in (file, *file.parents)] == before
    trees = output / "airway_trees"
    assert {file.name for file in trees.iterdir()} == {"half.npz", "whole.npz"}
    parsed = []
    monkeypatch.setattr("nnunetv2_airway.tree.store.parse_tree", lambda mask: parsed.append(1) or parse_tree(mask))

    def evaluate(case):
        ending = {"half": 12, "whole": 0}[case]
        (output / "cases" / f"{case}.json").unlink()
        parsed.clear()
        files = references / f"{case}.nii.gz", predictions / f"{case}.nrrd"
        record = module.evaluate_files(case, *files, output, None)
        assert record["metrics"]["by_generation"] == evaluate_case(fork(ending), fork(), SPACING)["by_generation"]
        return len(parsed)

    assert evaluate("whole") == 0
    content = (trees / "whole.npz").read_bytes()
    for damaged in (b"", b"no tree", content[: len(content) // 2]):
        (trees / "whole.npz").write_bytes(damaged)
        assert evaluate("whole") == 1 and evaluate("whole") == 0
    write_mask(references / "half.nii.gz", fork(), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    write_mask(predictions / "half.nrrd", fork(12), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert evaluate("half") == 1


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), FLIPPED])
def test_the_picture_is_upright_and_names_missed_branches_at_their_ends(
    folders, monkeypatch, direction, fork, write_mask
):
    references, predictions, output = folders
    write_mask(references / "half.nii.gz", fork(), direction=direction)
    write_mask(predictions / "half.nrrd", fork(12), direction=direction)
    drawn = {}

    def note(file, prediction, reference, spacing, *, title, marks):
        drawn.update(
            prediction=prediction.copy(), reference=reference.copy(), spacing=spacing, title=title, marks=marks
        )

    monkeypatch.setattr(module, "draw_projections", note)
    (output / "cases").mkdir(parents=True)
    module.evaluate_files("half", references / "half.nii.gz", predictions / "half.nrrd", output, None)
    # in LPS, axes (plane, row, column) run to the head, the back and the left
    rotation = np.round(np.array(direction).reshape(3, 3)).astype(int)
    order = [int(np.flatnonzero(rotation[2 - axis])[0]) for axis in range(3)]  # image axis (x, y, z) of each array axis
    expected = np.transpose(fork(), [2 - axis for axis in order])
    for axis in range(3):
        if rotation[2 - axis, order[axis]] < 0:
            expected = np.flip(expected, axis)
    assert np.array_equal(drawn["reference"], expected)
    assert drawn["spacing"] == pytest.approx([SPACING[2 - axis] for axis in order])
    [(number, place)] = drawn["marks"].items()
    assert expected[tuple(place)] and not drawn["prediction"][tuple(place)]
    branch = compare(fork(12), fork(), SPACING).branches[int(number) - 1]
    assert fork()[branch.end] and branch.end[2] > 48
    assert drawn["title"].startswith("half: tree length 8")
