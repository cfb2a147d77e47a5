"""``nnUNetv2_airway_measure``: length, diameter and angle of the branches of airway masks, without a reference."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from nnunetv2_airway.cli.common import add_part_options, positive, read_part, run
from nnunetv2_airway.io.errors import UserError, some

DARK = -700.0
"""HU: the lumen is darker on average."""


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_measure",
        description="Measure airway masks of any origin: length, diameter, taper, angle and course of each branch, "
        "tables of all cases, a surface, a centerline and a picture of each. Interrupted, the same command goes on "
        "where it stopped.",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="airway masks")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where to write the results")
    parser.add_argument(
        "--ct", type=Path, metavar="FOLDER", help="their CTs, of the same names: how dark the lumen is, and for a page"
    )
    values = parser.add_mutually_exclusive_group()
    values.add_argument(
        "-l", type=int, nargs="+", metavar="VALUE", help="values that are airway (default: the one besides 0)"
    )
    values.add_argument(
        "--threshold", type=float, metavar="P", help="of probability maps: what lies above is airway, such as 0.5"
    )
    parser.add_argument("-np", type=positive, default=2, metavar="N", help="cases measured at once (default: 2)")
    add_part_options(parser, "masks", "tables")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    read_part(parser, args)
    run(lambda: _measure(args))


def _measure(args: argparse.Namespace) -> None:
    # late, so that -h answers at once
    from nnunetv2_airway.measurement.folder import BRANCHES, TREES, measure_folder

    measurement = measure_folder(
        args.i,
        args.o,
        cts=args.ct,
        airway=args.l,
        threshold=args.threshold,
        processes=args.np,
        part=args.part_id,
        parts=args.num_parts,
    )
    earlier = sum("from_earlier" in record for record in measurement.cases.values())
    if earlier:
        print(f"{earlier} of {len(measurement.cases)} cases had been measured before and have not changed.")
    print_trees(measurement.cases, args.o)
    for case, error in measurement.failed.items():
        print(f"{case}: FAILED: {error}")
    if args.num_parts > 1:
        print(f"Part {args.part_id} of {args.num_parts} is measured; without -num_parts, {TREES} and {BRANCHES} follow")
    elif measurement.cases:
        if measurement.others:
            print(f"Not among the masks given now, and so not in the tables: {some(measurement.others)}")
        print(f"Results are in {args.o}: {TREES}, {BRANCHES}, pictures in cases, surfaces and centerlines in export")
    failed = len(measurement.failed)
    if failed:
        raise UserError(
            f"{failed} of {failed + len(measurement.cases)} masks could not be measured, see above"
            + ("; the others are complete" if measurement.cases else "")
        )


def print_trees(cases: Mapping[str, dict], output: Path) -> None:
    """Print a line for each tree, and what is in doubt about it.

    Args:
        cases: the record of each, see ``measurement.case.measure_file``.
        output: folder of the measurement.
    """
    from nnunetv2_airway.measurement.measure import warnings_of  # late, so that -h answers at once

    if not cases:
        return
    width = max(len("case"), *map(len, cases))
    print(f"\n{'case':{width}}  volume ml  length m  branches  ends  deepest generation  pieces")
    for case, record in cases.items():
        whole = record["summary"]
        print(
            f"{case:{width}}  {whole['volume_ml']:9.1f}  {whole['total_length_mm'] / 1000:8.2f}  "
            f"{whole['branches']:8}  {whole['ends']:4}  {whole['deepest_generation']:18}  {whole['pieces']:6}"
        )
    print()
    for case, record in cases.items():
        for warning in warnings_of(record["summary"]):
            print(f"{case}: WARNING: {warning}, look at {output / 'cases' / case}.png")
        if record["lumen_hu"] is not None and record["lumen_hu"] > DARK:
            print(
                f"{case}: WARNING: the lumen has {record['lumen_hu']:.0f} HU on average, air has -1000: is the mask "
                f"that of this CT?"
            )
