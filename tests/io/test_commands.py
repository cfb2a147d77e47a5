import pytest

from nnunetv2_airway.io import commands
from nnunetv2_airway.io.commands import Commands, train_command


def test_what_has_ended_is_not_run_again_and_what_failed_is(tmp_path, capfd):
    steps = Commands(tmp_path, {"GREETING": "good morning"})
    shell = "sh -c 'echo $GREETING; exit {}'"
    with pytest.raises(ValueError, match=r"exit code 3: sh -c"):
        steps.step("first", "one", shell.format(3))
    steps.step("first", "one", shell.format(0))
    Commands(tmp_path, {}).step("first", "one", shell.format(4))
    printed = capfd.readouterr().out.splitlines()
    assert printed.count("good morning") == 2 and printed[-1] == "already done"


def test_a_training_continues_from_any_checkpoint(tmp_path):
    line = "nnUNetv2_train 510 3d_fullres all -tr T -device cpu"
    assert train_command(tmp_path, 510, "all", "T", "cpu") == line
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "checkpoint_latest.pth").touch()
    assert train_command(tmp_path, 510, "all", "T", "cpu") == line
    (tmp_path / "fold_all").mkdir()
    (tmp_path / "fold_all" / "checkpoint_best.pth").touch()
    assert train_command(tmp_path, 510, "all", "T", "cpu") == f"{line} --c"


def test_a_missing_command_is_named(monkeypatch):
    with pytest.raises(ValueError, match="nnUNetv2_no_such_command is not installed"):
        commands._find("nnUNetv2_no_such_command")
