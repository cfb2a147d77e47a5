import pytest

from nnunetv2_airway.cli import demo, phantom, postprocess


@pytest.mark.parametrize("module", [demo, phantom, postprocess])
def test_help_needs_nothing(module, capsys):
    with pytest.raises(SystemExit) as end:
        module.main(["-h"])
    assert end.value.code == 0
    assert "usage: nnUNetv2_airway_" in capsys.readouterr().out


def test_phantom_says_where_it_would_write(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(SystemExit, match="give -o FOLDER, or set the variable nnUNet_raw"):
        phantom.main(["-d", "599"])


@pytest.mark.parametrize("arguments", [["-d", "0"], ["-d", "1000"], ["-d", "599", "-n", "0"], []])
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


def test_what_a_user_can_mend_ends_in_one_line(command, tmp_path):
    result = command("nnUNetv2_airway_postprocess", "-i", tmp_path, "-o", tmp_path / "out", workspace=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no segmentations") and "Traceback" not in result.stderr
    result = command(
        "nnUNetv2_airway_demo", "-o", tmp_path, "-device", "cuda", workspace=tmp_path, CUDA_VISIBLE_DEVICES=""
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: -device cuda") and "use -device cpu" in result.stderr
