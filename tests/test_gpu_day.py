"""The minutes on a GPU are shared out, a part that fails or hangs costs the others nothing, and nothing is lost."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import gpu_day
import gpu_day_results
import pytest
from gpu_day_results import Part

LOG = """$ python -m pytest
tests/gpu/test_steps.py::test_a[WingsLIB] PASSED        [  3%]
tests/gpu/test_steps.py::test_b[float16]
float16: 2 of 150 steps skipped, losses at most 0.41% from float32's
PASSED [  7%]
tests/gpu/test_memory.py::test_c FAILED [ 11%]
tests/gpu/test_memory.py::test_d SKIPPED (a GPU is needed) [ 14%]
tests/gpu/test_compiled.py::test_e
tests: out of time
"""


def bash(words: str) -> list[str]:
    return ["bash", "-c", words]


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """The function that runs the command on parts; returns its exit code and what it wrote."""

    def run(*parts: Part, minutes: float = 0.75) -> tuple[int, dict, str]:
        monkeypatch.setattr(gpu_day, "the_parts", lambda args, work: list(parts))
        monkeypatch.setattr(gpu_day_results, "KINDS", {part.name: gpu_day_results.KINDS["rows"] for part in parts})
        line = ["gpu_day.py", "-device", "cpu", "-o", str(tmp_path / "out"), "-minutes", str(minutes)]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            gpu_day.main()
        folder = tmp_path / "out"
        return ended.value.code, json.loads((folder / "gpu.json").read_text()), (folder / "gpu.md").read_text()

    return run


def test_a_part_that_fails_or_hangs_costs_the_others_nothing(begin, tmp_path):
    child = tmp_path / "child"
    code, content, page = begin(
        Part("first", 1, [bash("echo '| a | b |'; exit 3"), bash("echo '| never | |'")]),
        Part("second", 1, [bash(f"sleep 100 & echo $! > {child}; echo '| half | done |'; wait")], most=1),
        Part("third", 1, [bash("echo '| c | d |'"), bash("echo '| e | f |'")]),
    )
    assert code == 1
    assert [part["ended"] for part in content["parts"]] == ["exit code 3", "out of time", "ended"]
    tables = [part["table"] for part in content["parts"]]
    assert tables == [["| a | b |"], ["| half | done |"], ["| c | d |", "| e | f |"]]
    assert 1 <= content["parts"][1]["seconds"] < gpu_day.GRACE  # asked to end, not killed
    assert not alive(int(child.read_text()))
    assert page.index("## First") < page.index("exit code 3") < page.index("## Third") < page.index("| e | f |")
    assert "never" not in page and "# Rehearsed on a CPU" in page


TWO_TESTS = """
import time

def test_fails():
    assert "the cause" == ""

def test_hangs():
    time.sleep(100)
"""


@pytest.mark.slow
def test_a_test_says_why_it_failed_although_another_one_hangs(tmp_path):
    (tmp_path / "test_two.py").write_text(TWO_TESTS)
    part = Part("tests", 1, [[sys.executable, "-m", "pytest", "-v", "-n0", "--rootdir", str(tmp_path), str(tmp_path)]])
    with gpu_day.end_on_signals():
        gpu_day.run_part(part, 12, tmp_path / "tests.log", dict(os.environ))
    assert part.ended == "out of time" and "assert 'the cause' == ''" in (tmp_path / "tests.log").read_text()


def test_a_command_that_cannot_start_fails_alone(tmp_path):
    part = Part("tests", 1, [["no_such_command"]])
    gpu_day.run_part(part, 6, tmp_path / "tests.log", dict(os.environ))
    assert "no_such_command" in part.ended


def test_time_that_a_part_leaves_goes_to_those_after_it(begin, monkeypatch):
    given = []
    monkeypatch.setattr(gpu_day, "run_part", lambda part, limit, log, environment: (given.append(limit), log.touch()))
    begin(Part("a", 1, []), Part("b", 1, [], most=30), Part("c", 3, []), minutes=10)
    assert given == pytest.approx([570 / 5, 30, 570], abs=3)


def test_how_each_test_ended_is_read_from_the_log(tmp_path):
    (tmp_path / "tests.log").write_text(LOG)
    found = gpu_day_results.read_tests(tmp_path / "tests.log", tmp_path)
    assert list(found["results"].values()) == ["passed", "passed", "failed", "skipped", "not ended"]
    assert found["said"] == ["float16: 2 of 150 steps skipped, losses at most 0.41% from float32's"]
    words = "\n".join(gpu_day_results._tests_in_words(found))
    assert "2 passed, 1 failed, 1 skipped, 1 not ended" in words and "- failed: `test_memory.py::test_c`" in words
    assert "- not ended: `test_compiled.py::test_e`" in words


def test_the_commands_need_no_installation(tmp_path):
    environment = gpu_day.prepare_environment(tmp_path, "cuda")
    made = {file.name for file in (tmp_path / "bin").iterdir()}
    assert made == {point.name for point in entry_points(group="console_scripts") if point.name.startswith("nnUNetv2_")}
    assert environment["PATH"].startswith(f"{tmp_path / 'bin'}{os.pathsep}")
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(Path(__file__).parents[1])
    assert environment["nnUNet_extTrainer"].endswith("nnunet_ext") and environment["nnUNet_compile"] == "f"
    said = subprocess.run(["nnUNetv2_airway_postprocess", "-h"], env=environment, capture_output=True, text=True)
    assert said.returncode == 0 and "nnUNetv2_airway_postprocess" in said.stdout, said.stderr


def test_all_files_of_the_gpu_tests_are_run():
    folder = Path(__file__).parent / "gpu"
    assert sorted(name for names in gpu_day.TESTS.values() for name in names) == sorted(
        file.stem.removeprefix("test_") for file in folder.glob("test_*.py")
    )
