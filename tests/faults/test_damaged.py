"""Files that were cut or changed on disk: recognised, named, and made again or refused."""

import random
import shutil
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_airway.conversion.case import Options
from nnunetv2_airway.conversion.folder import Destination, convert_cases
from nnunetv2_airway.conversion.layout import image_files, paired
from nnunetv2_airway.evaluation.folder import evaluate_folder
from nnunetv2_airway.io.images import ENDINGS, read_volume

pytestmark = pytest.mark.usefixtures("in_this_process")


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def overwrite(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + chance.randbytes(64) + content[place + 64 :]


def convert(site):
    folder = site.folder.resolve()
    cases = paired(image_files(folder / "ct"), image_files(folder / "mask"))
    destination = Destination(folder / "out" / "Dataset510_Airways")
    return convert_cases(cases, destination, lambda case: Options(margin=None), left_out={}, description="")


def evaluate(site):
    return evaluate_folder(site.folder / "mask", site.folder / "prediction", site.folder / "out", processes=1)


@pytest.mark.parametrize(
    ("work", "files", "damage"),
    [
        (convert, "out/*/conversion/case*.json", cut),
        (convert, "out/*/conversion/case*.json", overwrite),
        (convert, "out/*/imagesTr/*", cut),
        (convert, "out/*/labelsTr/*", cut),
        (evaluate, "out/cases/*.json", cut),
        (evaluate, "out/cases/*.json", overwrite),
        (evaluate, "out/airway_trees/*", cut),
        (evaluate, "out/airway_trees/*", overwrite),
    ],
)
def test_damaged_results_are_made_again(site, work, files, damage):
    (site.folder / "out").mkdir()
    work(site)
    expected = site.results()
    chance = random.Random(files)
    damaged = sorted(site.folder.glob(files))
    assert len(damaged) == 3
    for file in damaged:
        file.write_bytes(damage(file.read_bytes(), chance))
    if "trees" in files:
        shutil.rmtree(site.folder / "out" / "cases")  # or no tree would be looked at
    work(site)
    found = site.results()
    assert set(found) == set(expected)
    # an unused byte of a compressed tree may differ: then it is read as before, and stays
    changed = {name for name in expected if found[name] != expected[name]}
    assert not changed or (damage is overwrite and all("trees" in name for name in changed))


VOXELS = {".mhd": ".zraw", ".nhdr": ".raw.gz", ".hdr": ".img"}
"""Ending of the file with the voxels, where it is another one."""


@pytest.mark.parametrize(
    ("ending", "damage"),
    [*product(ENDINGS, (cut, overwrite))],
)
def test_a_damaged_image_is_refused_and_named(tmp_path, scans, grid, ending, damage):
    file, array = tmp_path / f"a{ending}", scans[0][0]
    sitk.WriteImage(grid.image(array), str(file), useCompression=True)
    voxels = tmp_path / f"a{VOXELS.get(ending, ending)}"
    content, chance = voxels.read_bytes(), random.Random(ending)
    assert np.array_equal(sitk.GetArrayFromImage(read_volume(file)), array)
    for _ in range(20):
        voxels.write_bytes(damage(content, chance))
        try:
            found = sitk.GetArrayFromImage(read_volume(file))
        except ValueError as error:
            assert str(file) in str(error)
        else:
            # an uncompressed file has no checksum
            assert np.array_equal(found, array) or (ending in (".nii", ".hdr") and damage is overwrite)
