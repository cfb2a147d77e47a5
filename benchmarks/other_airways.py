"""Draw the airways of others into a patient's CT in place of its own, as an nnU-Net raw data set.

A patient's label lacks the small airways that whoever made it missed; these trees are complete, and what lies around
them is a patient's lung. Each is another patient's (``--vary``), scaled so that its lungs fill those of the CT.

``python benchmarks/other_airways.py -d 655 -name Other --ct CT.nii.gz TREE.nii.gz --from-mask A.nii.gz B.nii.gz -n 9``
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from study_data import case_name, read_case

from nnunetv2_airway.cli.common import dataset_id, positive, run
from nnunetv2_airway.conversion.lungs import find_lungs
from nnunetv2_airway.io.images import Grid, read_mask, write_image
from nnunetv2_airway.io.parallel import finished_cases
from nnunetv2_airway.io.raw_data import dataset_folder, prepare_own, write_dataset_json
from nnunetv2_airway.phantom.from_mask import lungs_around
from nnunetv2_airway.phantom.from_mask import read_mask as read_shapes
from nnunetv2_airway.phantom.model import LABELLED_SHARE, WALL_HU
from nnunetv2_airway.phantom.other_patient import other_patient
from nnunetv2_airway.phantom.scan import coverage, grain, mix, stored
from nnunetv2_airway.tree.components import bounding_box, largest_piece

WALL, RAGGED, MEDIASTINUM = 2.5, 8.0, 25.0
"""In mm around the patient's own airways: what is taken for their wall, how far air is theirs that their label lacks,
and where the airways of others may lie although there is no lung on both sides."""
POINT_SPREAD = 0.6
"""Standard deviation in mm by which what is drawn is blurred."""
SETTINGS_FILE = "other_airways.json"


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-d", type=dataset_id, required=True, metavar="ID", help="of the data set to write")
    parser.add_argument("-name", required=True, help="after DatasetXXX_")
    parser.add_argument("--ct", type=Path, nargs=2, required=True, metavar=("CT", "TREE"), help="a patient's")
    parser.add_argument("--from-mask", type=Path, nargs="+", required=True, metavar="FILE", help="airways of others")
    parser.add_argument("-n", type=positive, default=9, metavar="N", help="cases (default: %(default)s)")
    parser.add_argument("--vary", type=float, default=0.25, help="see nnUNetv2_airway_phantom (default: %(default)s)")
    parser.add_argument("-np", type=positive, default=2, metavar="N", help="cases made at once (default: %(default)s)")
    return parser


def without_airways(hu: np.ndarray, own: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Fill airways and their walls with what lies next to them.

    Args:
        hu: (Z, Y, X) in HU.
        own: the airways, (Z, Y, X) bool.
        spacing: (z, y, x) in mm.

    Returns:
        (Z, Y, X) float32; smooth where it was filled.
    """
    filled = ndimage.distance_transform_edt(~own, spacing) < WALL
    nearest = ndimage.distance_transform_edt(filled, spacing, return_distances=False, return_indices=True)
    smooth = ndimage.gaussian_filter(hu[tuple(nearest)].astype(np.float32), 1.5 / np.array(spacing))
    return np.where(filled, smooth, hu).astype(np.float32)


def fitted(mask: np.ndarray, lungs: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Scale and move an airway mask so that the lungs that would hold it fill a patient's.

    Args:
        mask: (Z, Y, X) bool, of any shape.
        lungs: (Z, Y, X) bool.
        spacing: (z, y, x) in mm, of both.

    Returns:
        (Z, Y, X) bool, of the shape of ``lungs``.
    """
    frame = lungs_around(mask, np.array(spacing))
    low, high = np.array([(side.start, side.stop) for side in bounding_box(lungs)]).T * spacing
    scale = 2 * frame.half / (high - low)  # mm in the mask for one in the patient
    offset = (frame.centre - (low + high) / 2 * scale) / spacing
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.4)
    return ndimage.affine_transform(soft, scale, offset, lungs.shape, order=1) >= LABELLED_SHARE


def other_airways(
    hu: np.ndarray,
    own: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw airways into a CT in place of its own.

    Args:
        hu: the CT (Z, Y, X) in HU, in the box of its lungs; head up, patient's front at row 0, right side at column 0.
        own: its airways, (Z, Y, X) bool.
        mask: the airways of another, (Z, Y, X) bool, of any shape.
        spacing: (z, y, x) in mm, of all.
        rng: draws the noise of what is drawn.

    Returns:
        CT (Z, Y, X) int16 in HU, and its airways (Z, Y, X) bool: one 6-connected piece, without what would lie outside
        lungs and mediastinum.
    """
    lungs = ndimage.binary_closing(np.pad(find_lungs(hu, spacing), 5), iterations=4)[5:-5, 5:-5, 5:-5]
    from_own = ndimage.distance_transform_edt(~own, spacing)
    right, left = (np.logical_or.accumulate(lungs[..., ::step], -1)[..., ::step] for step in (1, -1))
    airway = largest_piece(fitted(mask, lungs, spacing) & ((right & left) | (from_own < MEDIASTINUM)), connectivity=6)
    lumen_hu, noise = _lumen_and_noise(hu, own)
    ct = without_airways(hu, own | ((hu < -800) & ~lungs & (from_own < RAGGED)), spacing)
    drawn = (hu != ct).astype(np.float32)
    shapes = read_shapes(airway, np.array(spacing), rng)
    for field, material in ((shapes.outer, WALL_HU), (shapes.lumen, lumen_hu)):
        share = ndimage.gaussian_filter(coverage(field, np.mean(spacing)), POINT_SPREAD / np.array(spacing))
        mix(ct, share, material)
        drawn = np.maximum(drawn, share)
    return stored(ct + drawn * grain(hu.shape, noise, rng)), airway


def _lumen_and_noise(hu: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """Mean HU in large airways, and the standard deviation of the noise in soft tissue."""
    tissue = ndimage.binary_erosion((hu > -50) & (hu < 250) & (hu != 0), iterations=3)
    rough = hu - ndimage.gaussian_filter(hu.astype(np.float32), 3)
    return float(hu[ndimage.binary_erosion(own, iterations=3)].mean()), float(rough[tissue].std())


def _write_case(number: int, folder: Path, ct_file: Path, tree_file: Path, mask_file: Path, vary: float) -> None:
    name = f"{number:03d}_{case_name(ct_file)}"
    image_file, label_file = folder / "imagesTr" / f"{name}_0000.nii.gz", folder / "labelsTr" / f"{name}.nii.gz"
    if image_file.exists() and label_file.exists():
        return
    upright, tree = (sitk.DICOMOrient(image, "LPS") for image in read_case(ct_file, tree_file)[1:])
    own = sitk.GetArrayFromImage(tree) > 0
    hu, spacing = np.rint(sitk.GetArrayFromImage(upright)).astype(np.int16), upright.GetSpacing()[::-1]
    rng = np.random.default_rng(number)
    other = other_patient(read_mask(mask_file, threshold=0.5), rng, vary, spacing)
    box, label = bounding_box(hu != 0), np.zeros(hu.shape, np.uint8)
    mask = sitk.GetArrayFromImage(sitk.DICOMOrient(other, "LPS")) > 0
    hu[box], label[box] = other_airways(hu[box], own[box], mask, spacing, rng)
    write_image(Grid.of(upright).image(hu), image_file)
    write_image(Grid.of(upright).image(label), label_file)


def main() -> None:
    """Run as a command."""
    args = build_parser().parse_args()
    run(lambda: _write(args))


def _write(args: argparse.Namespace) -> None:
    folder = dataset_folder(None, args.d, args.name)
    files = {"ct": args.ct, "from_mask": args.from_mask}
    settings = {name: [str(file.absolute()) for file in given] for name, given in files.items()} | {"vary": args.vary}
    prepare_own(folder, folder / SETTINGS_FILE, settings)
    cases = {
        f"{number:03d}": (number, folder, *args.ct, args.from_mask[number % len(args.from_mask)], args.vary)
        for number in range(args.n)
    }
    for _, _, error in finished_cases(_write_case, cases, processes=args.np, description="CTs"):
        if error is not None:
            raise error
    write_dataset_json(
        folder, training=args.n, description="Airways of others in a patient's CT", licence="see the sources"
    )
    print(f"{args.n} training cases are in {folder}")


if __name__ == "__main__":
    main()
