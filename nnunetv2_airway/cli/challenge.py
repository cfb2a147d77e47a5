"""``nnUNetv2_airway_challenge``: the entry point of a container for ATM'26."""

import argparse
import sys
import tempfile
from pathlib import Path

from nnunetv2_airway.cli.common import add_prediction_options, read_settings, run
from nnunetv2_airway.io.errors import some


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_challenge",
        description="Segment the airways as a container of the ATM'26 challenge (track 1) has to: CTs from "
        "INPUT/images/lung-ct/*.mha, masks to OUTPUT/images/binary-airway-segmentation: output.mha for one CT, "
        "CASE.mha for several. Writes nowhere else and needs no network. A CT that cannot be segmented gets an empty "
        "mask, and the exit code is 1.",
    )
    parser.add_argument(
        "-m", type=Path, required=True, metavar="MODEL", help="the model, as nnUNetv2_airway_segment takes it"
    )
    parser.add_argument("--input", type=Path, default=Path("/input"), metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("/output"), metavar="FOLDER", help="(default: %(default)s)")
    add_prediction_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(arguments)
    run(lambda: _segment(args))


def _segment(args: argparse.Namespace) -> None:
    # late, so that -h answers at once
    from nnunetv2_airway.inference.challenge import TREES, find_cts, mask_name, segment_cts
    from nnunetv2_airway.inference.models import find_model
    from nnunetv2_airway.inference.predictor import keep_freed_memory, load_predictor

    cts = find_cts(args.input)
    keep_freed_memory()
    args.output.mkdir(parents=True, exist_ok=True)
    settings = read_settings(args)
    with tempfile.TemporaryDirectory(dir=args.output) as cache:  # a model that is a file is unpacked there
        predictor = load_predictor(find_model(args.m, cache=Path(cache)), settings)
        where = f"on {settings.device}, at {predictor.operating_point}"
        print(f"{len(cts)} CT{'s' * (len(cts) > 1)}, {where}", flush=True)
        failed = []
        for outcome in segment_cts(cts, args.output, predictor):
            if outcome.failure:
                failed.append(outcome.name)
                written = "no mask, since its header tells no grid" if outcome.voxels is None else "its mask is empty"
                print(f"{outcome.name}: FAILED: {outcome.failure}; {written}", flush=True)
                continue
            print(f"{outcome.name}: {outcome.voxels} voxels of airway", flush=True)
            for doubt in outcome.doubts:
                print(f"{outcome.name}: WARNING: {doubt}", flush=True)
    names = {mask_name(ct, cts) for ct in cts}
    if others := sorted(file.name for file in (args.output / TREES).iterdir() if file.name not in names):
        print(f"WARNING: {args.output / TREES} also holds {some(others)}, not of this run", flush=True)
    if failed:
        sys.exit(f"error: {len(failed)} of {len(cts)} CTs could not be segmented: {some(failed)}")
