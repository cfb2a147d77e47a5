import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnunetv2_airway import discovery

ROOT = Path(__file__).parent.parent


def test_register_keeps_the_users_folders_first_and_adds_ours_once(monkeypatch):
    monkeypatch.setenv(discovery.VARIABLE, os.pathsep.join(["/mine", "/ours"]))
    discovery.register()
    discovery.register()
    assert os.environ[discovery.VARIABLE].split(os.pathsep) == ["/mine", "/ours", discovery.FOLDER]


def test_register_without_a_variable(monkeypatch):
    monkeypatch.delenv(discovery.VARIABLE, raising=False)
    discovery.register()
    assert os.environ[discovery.VARIABLE] == discovery.FOLDER
    assert Path(discovery.FOLDER, "airway_trainers.py").is_file()


@pytest.fixture(scope="module", params=["wheel", "editable"])
def wheel(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """A wheel built from a copy of the sources: (mode, sources, wheel)."""
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / "source"
    for name in ("nnunetv2_airway", "results_templates"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = f"import setuptools.build_meta as b; b.build_{request.param}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    return request.param, source, next(folder.glob("*.whl"))


def start_python(site: Path, **variables: str) -> str:
    """Start Python with ``site`` as its only site folder and return our variable, as it prints it."""
    code = (
        f"import os, site, sys; site.addsitedir({str(site)!r}); print(os.environ.get({discovery.VARIABLE!r})); "
        f"sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], env=variables, cwd=site, check=True, capture_output=True, text=True
    )
    assert result.stderr == ""
    return result.stdout.strip()


def test_an_installed_wheel_registers_at_start_up_and_leaves_no_trace(wheel, tmp_path):
    mode, source, file = wheel
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
        record = archive.read(next(name for name in archive.namelist() if name.endswith("RECORD"))).decode()
    assert "nnunetv2_airway.pth," in record  # so that pip uninstall removes it
    package = (source if mode == "editable" else tmp_path) / "nnunetv2_airway"
    assert ("nnunetv2_airway/results_templates/ATM22.md," in record) == (mode == "wheel")
    assert len(list((package / "results_templates").glob("ATM22.*"))) == (3 if mode == "wheel" else 0)
    assert start_python(tmp_path) == str(package / "nnunet_ext")
    mine = f"/mine{os.pathsep}/ours"
    variables = {discovery.VARIABLE: mine}
    assert start_python(tmp_path, **variables) == os.pathsep.join([mine, str(package / "nnunet_ext")])

    # another version, such as a checkout on the path, is no reason for a word
    init = package / "__init__.py"
    content = init.read_text()
    init.write_text("")
    assert start_python(tmp_path) == "None"
    init.write_text(content)

    # the package is gone but the start-up file is not: silence
    for leftover in tmp_path.iterdir():
        if leftover.name != "nnunetv2_airway.pth":
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    assert start_python(tmp_path) == "None"


def test_importing_the_package_registers_whenever_the_variable_was_set(wheel, tmp_path):
    """As in a notebook that has just installed it, and in a program that sets the variable itself."""
    mode, source, file = wheel
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    site = source if mode == "editable" else tmp_path
    for start in (f"sys.path.insert(0, {str(site)!r})", f"import site; site.addsitedir({str(tmp_path)!r})"):
        code = (
            f"import os, sys; {start}; os.environ[{discovery.VARIABLE!r}] = '/mine'; import nnunetv2_airway; "
            f"print(os.environ[{discovery.VARIABLE!r}], nnunetv2_airway.__version__)"
        )
        result = subprocess.run(
            [sys.executable, "-S", "-c", code], env={}, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        folder = site / "nnunetv2_airway" / "nnunet_ext"
        assert result.stdout.split()[0] == os.pathsep.join(["/mine", str(folder)]) and result.stderr == ""


def test_an_environment_without_this_package_that_inherits_the_variable_is_not_disturbed(tmp_path):
    blocked = tmp_path / "nnunetv2_airway.py"  # stands in for its absence
    blocked.write_text("raise ModuleNotFoundError('No module', name='nnunetv2_airway')")
    code = f"import sys; sys.path.insert(0, {discovery.FOLDER!r}); import airway_trainers as t; print(t.__all__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
