"""Folders laid out as ATM'26 lays them out for containers."""

import json
import re
import shutil
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway import segment
from nnunetv2_airway.cli import challenge
from nnunetv2_airway.io.images import Grid

GRID = Grid((2.1, 2.3, 3.0), (-190.0, -120.5, 33.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
TREES = Path("images", "binary-airway-segmentation")

pytestmark = pytest.mark.usefixtures("finds_trachea")


def lay_out(folder: Path, slug: str = "lung-ct", **cts: np.ndarray) -> Path:
    """The input of a container: CTs by case, and what describes them."""
    images = folder / "images" / "lung-ct"
    images.mkdir(parents=True)
    for case, ct in cts.items():
        sitk.WriteImage(GRID.image(ct), str(images / f"{case}_0000.mha"), useCompression=True)
    inputs = [
        {"socket": {"slug": slug, "relative_path": "images/lung-ct"}, "image": {"name": f"{case}_0000.mha"}}
        for case in cts
    ]
    (folder / "inputs.json").write_text(json.dumps(inputs))
    return folder


@pytest.fixture
def run(tmp_path, model, monkeypatch):
    """Run the command on an input, without network, and give what it has written and its exit code's words."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for name in ("HOME", "TMPDIR", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def no_network(*args):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", no_network)

    def run(source: Path, of=model) -> tuple[dict[str, Path], str]:
        output = tmp_path / "output"
        before = {file: file.stat().st_mtime_ns for file in source.rglob("*")}
        words = ""
        try:
            challenge.main(["-m", str(of), "--input", str(source), "--output", str(output), "--disable_tta"])
        except SystemExit as end:
            words = str(end.code)
        assert {file: file.stat().st_mtime_ns for file in source.rglob("*")} == before
        assert list(elsewhere.rglob("*")) == []
        files = {str(file.relative_to(output)): file for file in output.rglob("*") if file.is_file()}
        assert {Path(name).parent for name in files} <= {TREES}
        return {Path(name).name: file for name, file in files.items()}, words

    return run


def test_one_ct_gives_one_mask_that_is_segment_s(run, tmp_path, ct, model, capsys):
    found, words = run(lay_out(tmp_path / "input", ATM_039=ct))
    assert list(found) == ["output.mha"] and words == ""
    mask = sitk.ReadImage(str(found["output.mha"]))
    assert mask.GetPixelID() == sitk.sitkUInt8 and Grid.of(mask) == GRID
    header = found["output.mha"].read_bytes()[:600]
    assert b"CompressedData = True" in header
    assert np.array_equal(sitk.GetArrayFromImage(mask), segment(ct, model, (3.0, 2.3, 2.1)))
    assert f"ATM_039_0000.mha: {sitk.GetArrayFromImage(mask).sum()} voxels of airway" in capsys.readouterr().out


def test_several_cts_of_which_one_lost_its_scale_and_others_cannot_be_read(run, tmp_path, ct, published_file, capsys):
    scaled = (16 * (ct.astype(int) + 1024)).astype(np.uint16)
    scaled[0, 0, 0] = 65535
    source = lay_out(tmp_path / "input", ATM_001=ct, ATM_242=scaled, ATM_300=ct, ATM_301=ct, ATM_302=ct, belly=ct[:22])
    (source / "inputs.json").unlink()  # the organisers' own platform
    short, damaged, flat = (source / "images" / "lung-ct" / f"ATM_{number}_0000.mha" for number in (300, 301, 302))
    flat.write_bytes(re.sub(rb"ElementSpacing = .*", b"ElementSpacing = 0 2.3 3", flat.read_bytes(), count=1))
    short.write_bytes(short.read_bytes()[:2000])
    damaged.write_bytes(b"no image")
    earlier = tmp_path / "output" / TREES / "output.mha"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    found, words = run(source, published_file)
    assert found.pop("output.mha").read_bytes() == b"earlier"
    assert set(found) == {"ATM_001.mha", "ATM_242.mha", "ATM_300.mha", "belly.mha"}
    masks = {name: sitk.ReadImage(str(file)) for name, file in found.items()}
    arrays = {name: sitk.GetArrayFromImage(mask) for name, mask in masks.items()}
    assert arrays["ATM_001.mha"].any() and np.array_equal(arrays["ATM_001.mha"], arrays["ATM_242.mha"])
    assert arrays["ATM_300.mha"].shape == ct.shape and not arrays["ATM_300.mha"].any()
    assert Grid.of(masks["ATM_300.mha"]) == GRID and masks["ATM_300.mha"].GetPixelID() == sitk.sitkUInt8
    out = capsys.readouterr().out
    assert "ATM_300_0000.mha: FAILED: cannot read" in out and "its mask is empty" in out
    for number in (301, 302):
        (line,) = (line for line in out.splitlines() if line.startswith(f"ATM_{number}_0000.mha: FAILED"))
        assert line.endswith("no mask, since its header tells no grid")
    assert "belly_0000.mha: WARNING: no lungs were found" in out
    assert words.startswith("error: 3 of 6 CTs could not be segmented: ATM_300_0000.mha, ATM_301_0000.mha")
    assert "binary-airway-segmentation also holds output.mha, not of this run" in out


def test_what_is_no_input_of_the_challenge(run, tmp_path, ct):
    source = lay_out(tmp_path / "input", slug="chest-x-ray", ATM_001=ct[:8])
    assert "must offer the socket lung-ct, got chest-x-ray" in run(source)[1]
    (source / "inputs.json").write_text('[{"interface": 1}]')
    assert 'must be a list of inputs such as [{"socket": {"slug": "lung-ct"}}]' in run(source)[1]
    (source / "inputs.json").write_text("[{")
    assert "inputs.json is not JSON: Expecting property name" in run(source)[1]
    (source / "inputs.json").unlink()
    (source / "images" / "lung-ct" / "ATM_001_0000.mha").rename(source / "images" / "lung-ct" / "ATM_001.nii.gz")
    assert "there is no CT (.mha) in" in (words := run(source)[1]) and words.endswith("lung-ct, but ATM_001.nii.gz")
    shutil.rmtree(source / "images")
    found, words = run(source)
    assert words.endswith("lung-ct, but nothing") and not found
    assert "there is no folder" in run(tmp_path / "nowhere")[1]


def test_the_dockerfile_calls_the_command_on_the_model_that_it_copies():
    text = (Path(__file__).parents[2] / "documentation" / "docker" / "atm26.Dockerfile").read_text()
    program, *arguments = json.loads(text.split("ENTRYPOINT ")[1])
    parser = challenge.build_parser()
    args = parser.parse_args(arguments)
    assert args.device == "cuda"  # not in silence on a CPU
    assert program == parser.prog and f"\nCOPY model {args.m}\n" in text
    assert (args.input, args.output) == (Path("/input"), Path("/output"))
