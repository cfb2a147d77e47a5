import pytest

from nnunetv2_airway.cli.common import run
from nnunetv2_airway.io.errors import UserError, reason


def fail(error: BaseException):
    def command():
        raise error

    return command


@pytest.mark.parametrize("error", [UserError("give -d 510"), FileNotFoundError(2, "No such file", "a.nii.gz")])
def test_what_a_user_can_mend_ends_in_one_line(error):
    with pytest.raises(SystemExit) as ended:
        run(fail(error))
    assert ended.value.code == f"error: {error}"


def test_an_interrupted_command_says_that_it_goes_on():
    with pytest.raises(SystemExit, match="the same command goes on"):
        run(fail(KeyboardInterrupt()))


@pytest.mark.parametrize("error", [ValueError("cannot reshape"), KeyError("label")])
def test_an_error_of_the_program_keeps_its_traceback(error, capsys):
    with pytest.raises(type(error)):
        run(fail(error))
    try:
        fail(error)()
    except Exception as raised:
        assert reason(raised) == f"{type(error).__name__}: {error}"
    assert "in command" in capsys.readouterr().err, "the traceback of a case goes to the terminal"
    assert reason(UserError("the label is empty")) == "the label is empty" and capsys.readouterr().err == ""
