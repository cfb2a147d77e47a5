"""Put a data set of the study together: cases of other data sets, and CTs with their trees, as they are and thickened.

Air around the patient becomes 0, as outside the lungs' box, unless ``--keep-air`` is given: trainings as short as the
study's take it for airway, and whole cases would be lost where it is the largest piece. Zheng 2021 removes it too.

``python benchmarks/study_data.py -d 630 -name Study --join 610 611 --ct CT.nii.gz TREE.nii.gz --slices 2.5``
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name

from nnunetv2_airway.cli.common import dataset_id, run
from nnunetv2_airway.conversion.lungs import PADDING, air_around
from nnunetv2_airway.io.images import Grid, list_images, read_mask, read_volume, require_same_geometry, write_image
from nnunetv2_airway.io.raw_data import PARTS, create_parts, dataset_folder, require_free_id, write_dataset_json
from nnunetv2_airway.phantom.model import LABELLED_SHARE
from nnunetv2_airway.tree.components import bounding_box, largest_piece


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-d", type=dataset_id, required=True, metavar="ID", help="of the data set to write")
    parser.add_argument("-name", required=True, help="after DatasetXXX_")
    parser.add_argument("--join", type=dataset_id, nargs="+", default=[], metavar="ID", help="data sets of phantoms")
    parser.add_argument("--ct", type=Path, nargs=2, action="append", default=[], metavar=("CT", "TREE"), help="a case")
    parser.add_argument("--slices", type=float, nargs="+", default=[], metavar="MM", help="also so thick, by averaging")
    parser.add_argument("--keep-air", action="store_true", help="around the patient")
    parser.add_argument("--held-out", action="store_true", help="the CTs are held-out cases, in imagesTs")
    return parser


def thickened(image: sitk.Image, thickness: float) -> sitk.Image:
    """Average as many slices of an image as make up a thickness in mm."""
    slices = max(1, round(thickness / image.GetSpacing()[2]))
    whole = image.GetSize()[2] // slices * slices
    return sitk.BinShrink(sitk.Cast(image[:, :, :whole], sitk.sitkFloat32), [1, 1, slices])


def prepared(ct: sitk.Image, keep_air: bool) -> sitk.Image:
    """Round a CT that is 0 outside the lungs' box to int16; air around the patient becomes 0 if it is not kept."""
    hu = np.maximum(np.rint(sitk.GetArrayFromImage(ct)), PADDING).astype(np.int16)
    if not keep_air:
        box = bounding_box(hu != 0)
        hu[box][air_around(hu[box], ct.GetSpacing()[::-1])] = 0
    return Grid.of(ct).image(hu)


def read_case(ct_file: Path, tree_file: Path) -> tuple[str, sitk.Image, sitk.Image]:
    """Read a CT and its tree: name, CT, and tree on the very grid of the CT."""
    ct, tree = read_volume(ct_file), read_mask(tree_file)
    require_same_geometry(tree, ct)
    return case_name(ct_file), ct, Grid.of(ct).image(sitk.GetArrayFromImage(tree))


def case_name(ct_file: Path) -> str:
    """Give the name of a CT's case."""
    return ct_file.name.split(".")[0].removesuffix("_0000")


def main() -> None:
    """Run as a command."""
    args = build_parser().parse_args()
    run(lambda: _write(args))


def _write(args: argparse.Namespace) -> None:
    folder = dataset_folder(None, args.d, args.name)
    require_free_id(folder)
    create_parts(folder)
    parts = {part: folder / part for part in PARTS}
    for number in args.join:
        source = Path(os.environ["nnUNet_raw"], convert_id_to_dataset_name(number))
        for ending in ("Tr", "Ts"):
            if not any((source / f"labels{ending}").iterdir()):
                continue
            for case, file in list_images(source / f"labels{ending}").items():
                name = f"{number}_{case}"
                shutil.copy(file, parts[f"labels{ending}"] / f"{name}.nii.gz")
                ct = read_volume(source / f"images{ending}" / f"{case}_0000.nii.gz")
                write_image(prepared(ct, args.keep_air), parts[f"images{ending}"] / f"{name}_0000.nii.gz")
    ending = "Ts" if args.held_out else "Tr"
    for files in args.ct:
        name, ct, tree = read_case(*files)
        cases = {name: (ct, tree)}
        for thickness in args.slices:
            thick_ct, share = (thickened(image, thickness) for image in (ct, tree))
            thick_tree = largest_piece(sitk.GetArrayViewFromImage(share) >= LABELLED_SHARE, connectivity=6)
            label = Grid.of(share).image(thick_tree.astype(np.uint8))
            cases[f"{name}_{label.GetSpacing()[2]:g}mm"] = (thick_ct, label)
        for case, (image, label) in cases.items():
            write_image(prepared(image, args.keep_air), parts[f"images{ending}"] / f"{case}_0000.nii.gz")
            write_image(label, parts[f"labels{ending}"] / f"{case}.nii.gz")
    training = len(list(parts["labelsTr"].iterdir()))
    write_dataset_json(folder, training=training, description="A study's data", licence="see the sources")
    print(f"{training} training and {len(list(parts['labelsTs'].iterdir()))} held-out cases are in {folder}")


if __name__ == "__main__":
    main()
