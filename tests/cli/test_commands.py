import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.cli import (
    challenge,
    convert,
    demo,
    evaluate,
    import_model,
    measure,
    phantom,
    postprocess,
    report,
    segment,
)


@pytest.mark.parametrize(
    "module", [challenge, convert, demo, evaluate, import_model, measure, phantom, postprocess, report, segment]
)
def test_help_needs_nothing(module, capsys):
    with pytest.raises(SystemExit) as end:
        module.main(["-h"])
    assert end.value.code == 0
    assert "usage: nnUNetv2_airway_" in capsys.readouterr().out


def test_phantom_says_where_it_would_write(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(SystemExit, match="give -o FOLDER, or set the variable nnUNet_raw"):
        phantom.main(["-d", "599"])


@pytest.mark.parametrize("arguments", [["-d", "0"], ["-d", "1000"], ["-d", "599", "-n", "-1"], []])
def test_phantom_refuses_impossible_numbers(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        phantom.main(arguments)
    assert end.value.code == 2
    assert "-d" in capsys.readouterr().err


def test_postprocess_needs_both_folders_or_a_pkl(tmp_path, capsys):
    for arguments in ([], ["-i", str(tmp_path)], ["-o", str(tmp_path), "--pkl", "a"]):
        with pytest.raises(SystemExit) as end:
            postprocess.main(arguments)
        assert end.value.code == 2
    assert "give -i and -o, or --pkl" in capsys.readouterr().err


def evaluation(folder: Path, reference: dict[str, int], prediction: dict[str, int]) -> list[object]:
    """The command for two folders of tubes, given the length of each case's."""
    for name, lengths in (("ref", reference), ("pred", prediction)):
        (folder / name).mkdir()
        for case, length in lengths.items():
            mask = np.zeros((30, 9, 11), np.uint8)
            mask[:length, 3:6, 4:7] = 1
            sitk.WriteImage(sitk.GetImageFromArray(mask), str(folder / name / f"{case}.nii.gz"))
    return ["nnUNetv2_airway_evaluate", "-ref", folder / "ref", "-pred", folder / "pred"]


def test_evaluate_then_report(command, tmp_path):
    line = evaluation(tmp_path, {"a": 30, "b": 30}, {"a": 30, "b": 15, "c": 30})
    result = command(*line, workspace=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"\na +100\.00 +100\.00", result.stdout)
    assert "c: WARNING: no reference for this prediction" in result.stdout
    folder = tmp_path / "pred" / "evaluation"
    assert (folder / "summary.json").is_file() and str(folder / "cases") in result.stdout

    table = command("nnUNetv2_airway_report", "-i", folder, workspace=tmp_path).stdout.splitlines()
    assert table[0].startswith("# ATM'22") and table[-1].startswith("| pred | ")
    file = tmp_path / "table.tex"
    result = command("nnUNetv2_airway_report", "-i", folder, "-t", "BAS", "-n", "mine", "-o", file, workspace=tmp_path)
    assert "mine (2 cases)" in result.stdout and "    {mine} & " in file.read_text()


@pytest.mark.slow
def test_evaluate_tells_by_its_exit_code_that_cases_are_missing(command, tmp_path):
    line = evaluation(tmp_path, {"a": 30, "b": 30}, {"a": 0})
    result = command(*line, "-np", "1", workspace=tmp_path)
    assert result.returncode == 1 and "--chill" in result.stderr and "Traceback" not in result.stderr
    assert "b: WARNING: no prediction for this reference" in result.stdout
    assert "a: WARNING: the prediction is empty" in result.stdout
    assert command(*line, "--chill", workspace=tmp_path).returncode == 0
    report = command("nnUNetv2_airway_report", "-i", tmp_path / "pred" / "evaluation", workspace=tmp_path)
    warnings = report.stdout.splitlines()[:2]
    assert warnings[0] == "WARNING: pred has cases that were not evaluated: b"
    assert warnings[1].startswith("WARNING: pred has cases with an empty prediction") and warnings[1].endswith(": a")
    (tmp_path / "ref" / "b.nii.gz").unlink()
    (tmp_path / "pred" / "a.nii.gz").write_text("broken")
    result = command(*line, workspace=tmp_path)
    assert result.returncode == 1 and "a: FAILED: cannot read" in result.stdout
    assert "none of the 1 cases could be evaluated" in result.stderr


@pytest.mark.parametrize(("way", "warned"), [("LPS", False), ("RAI", False), ("PSR", True)])
def test_evaluate_points_out_references_stored_along_other_axes(tmp_path, capsys, in_this_process, way, warned):
    line = evaluation(tmp_path, {"a": 30}, {"a": 20})
    for file in tmp_path.rglob("*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), way), str(file))
    evaluate.main([str(word) for word in line[1:]])
    assert ("a: WARNING: stored along other axes (PSR) than" in capsys.readouterr().out) == warned


def test_what_a_user_can_mend_ends_in_one_line(command, tmp_path):
    result = command("nnUNetv2_airway_postprocess", "-i", tmp_path, "-o", tmp_path / "out", workspace=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no images") and "Traceback" not in result.stderr
    result = command(
        "nnUNetv2_airway_demo", "-o", tmp_path, "-device", "cuda", workspace=tmp_path, CUDA_VISIBLE_DEVICES=""
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: -device cuda") and "use -device cpu" in result.stderr
