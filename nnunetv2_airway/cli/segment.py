"""``nnUNetv2_airway_segment``: from CTs to measured airway trees."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunetv2_airway import __version__
from nnunetv2_airway.cli.common import (
    add_ct_options,
    add_part_options,
    add_prediction_options,
    positive,
    read_part,
    read_scales,
    read_settings,
    require_cases,
    run,
)
from nnunetv2_airway.cli.measure import print_trees
from nnunetv2_airway.io.errors import UserError, some
from nnunetv2_airway.io.images import ENDINGS

ONE_FILE = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Formats of which an image is one file."""
REPORT = "report.html"
MODEL_CARD = "MODEL_CARD.md"
OWN = f"nnunetv2_airway {__version__}"


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_segment",
        description="Segment and measure the airway trees of chest CTs: reads and checks each CT, finds the lungs, "
        "predicts with the package's model, one of nnU-Net, or a published network, keeps the largest connected "
        "piece, puts it on the CT's own grid, and measures it. Interrupted, the same command goes on where it stopped.",
    )
    parser.add_argument(
        "-i",
        type=Path,
        required=True,
        metavar="CT",
        help="an image file, the folder of a DICOM series, or a folder of either",
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="FOLDER", help="where to write the trees, their figures and a page"
    )
    parser.add_argument(
        "-m",
        type=Path,
        metavar="MODEL",
        help="a model folder of nnU-Net (with plans.json and fold_0), a zip that nnU-Net exported, or a published "
        "checkpoint, see nnUNetv2_airway_import (default: the package's own model)",
    )
    how = add_prediction_options(parser)
    how.add_argument(
        "--spacing",
        type=side,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="grid in mm on which a published network works (default: the CT's own, with 1 mm where its voxels are "
        "longer than 1.25); the package's model and those of nnU-Net have one of their own",
    )
    how.add_argument("--window", type=float, nargs=2, metavar=("LOWER", "UPPER"), help="see nnUNetv2_airway_import")
    reading = parser.add_argument_group("CTs")
    add_ct_options(reading, "look in the box of the lungs alone, with this margin (default: 10)")
    reading.add_argument(
        "--accept", nargs="+", default=[], metavar="CASE", help="write these trees although they do not look like one"
    )
    writing = parser.add_argument_group("results")
    writing.add_argument(
        "--format", choices=ONE_FILE, default=".nii.gz", help="of the trees' files (default: %(default)s)"
    )
    writing.add_argument(
        "--dicom-seg",
        action="store_true",
        help="also write a DICOM SEG that refers to the series, for CTs that are DICOM (needs the extra dicom)",
    )
    work = parser.add_argument_group("work")
    work.add_argument("-np", type=positive, default=2, metavar="N", help="cases read or measured at once (default: 2)")
    add_part_options(work, "CTs", "tables and the page")
    return parser


def side(text: str) -> float:
    """Parse a side of a voxel in mm."""
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"a length above 0 is needed, got {text}")
    return number


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    read_part(parser, args)
    run(lambda: _segment(args))


def _segment(args: argparse.Namespace) -> None:
    cases = _cases(args.i, args.o.resolve())
    scales = read_scales(args.scale)
    names = [case.name for case in cases]
    require_cases("accept", args.accept, names, args.i)
    require_cases("scale", list(filter(None, scales)), names, args.i)
    # late, so that -h and what is wrong so far are answered at once
    from nnunetv2_airway.conversion.case import Options
    from nnunetv2_airway.inference.dicom_seg import require_highdicom
    from nnunetv2_airway.inference.folder import segment_cases
    from nnunetv2_airway.inference.models import BUILT_IN, find_model
    from nnunetv2_airway.inference.operating_point import DEFAULT
    from nnunetv2_airway.inference.predictor import keep_freed_memory, operating_point_of
    from nnunetv2_airway.inference.published import what_was_imported

    keep_freed_memory()
    if args.dicom_seg:
        require_highdicom()
    model = find_model(args.m or BUILT_IN, window=args.window and tuple(args.window))
    if args.m is None:
        print(f"Model: that of {OWN}, not for diagnosis; what it knows, and where it fails: {BUILT_IN / MODEL_CARD}")
    else:
        print(what_was_imported(model) or f"Model: {model}")
    settings = read_settings(args)
    settings = replace(settings, operating_point=operating_point_of(model, settings))
    if settings.operating_point != DEFAULT:
        print(f"Operating point: {settings.operating_point}")
    found = segment_cases(
        cases,
        model,
        args.o,
        lambda case: Options(
            margin=args.lung_box,
            scale=scales.get(case, scales.get("")),
            series=tuple(args.series),
            accept=case in args.accept,
        ),
        settings=settings,
        model_name=args.m.name if args.m else f"of {OWN}",
        grid=args.spacing,
        ending=args.format,
        dicom_seg=args.dicom_seg,
        processes=args.np,
        part=args.part_id,
        parts=args.num_parts,
    )
    _measure(found, args)


def _cases(source: Path, output: Path):
    from nnunetv2_airway.conversion.any_folder import find_cases
    from nnunetv2_airway.conversion.layout import Case, stem

    if source.is_file():
        name = stem(source)
        if name is None:
            raise UserError(
                f"{source} is no image ({', '.join(ENDINGS)}); of a DICOM series, give the folder that holds its files"
            )
        return [Case(name, source.resolve())]
    if not source.is_dir():
        raise UserError(f"there is no file or folder {source}")
    source = source.resolve()
    cases = [case for case in find_cases(source, None) if case.ct != output or source == output]
    if not cases:
        raise UserError(f"{source} holds neither image files ({', '.join(ENDINGS)}) nor DICOM")
    return cases


def _warnings(case: str, found, dicom_seg: bool) -> list[str]:
    ct, record = found.cts[case], found.cases[case]
    warnings = [*ct["warnings"], *record["accepted"], *record["doubts"]]
    if dicom_seg and not ct["series"]:
        warnings.append("not DICOM, so without a DICOM SEG")
    return warnings


def _sides(spacing: Sequence[float]) -> str:
    return " x ".join(f"{side:.3g}" for side in spacing)


def _measure(found, args: argparse.Namespace) -> None:
    """Measure what was segmented, write the page, and say what a person should know."""
    from nnunetv2_airway.io.files import write_text
    from nnunetv2_airway.measurement.folder import BRANCHES, TREES, measure_masks
    from nnunetv2_airway.report.page.measured import make_measured_page

    measurement = measure_masks(
        {case: found.tree(case) for case in found.cases},
        found.output,
        cts={case: found.ct(case) for case in found.cases},
        processes=args.np,
        tables=args.num_parts == 1,
    )
    failed = found.failed | measurement.failed
    page = found.output / REPORT
    warnings = [(case, warning) for case in found.cases for warning in _warnings(case, found, args.dicom_seg)]
    if args.num_parts == 1 and measurement.cases:
        content = make_measured_page(
            found.output,
            cases=list(measurement.cases),
            about=f"Segmented with the model {found.model}.",
            warnings=[
                *(f"{case}: {warning}" for case, warning in warnings),
                *(f"{case} failed: {error}" for case, error in sorted(failed.items())),
            ],
            processes=args.np,
        )
        write_text(page, content)
    elif args.num_parts == 1:
        page.unlink(missing_ok=True)  # of cases that failed now
    print_trees(measurement.cases, args.o)
    for case, record in found.cases.items():
        if not np.allclose(sides := found.cts[case]["spacing"], record["spacing"]):
            print(f"{case}: voxels of {_sides(sides)} mm (z, y, x) were brought to {_sides(record['spacing'])} mm")
    for case, warning in warnings:
        print(f"{case}: WARNING: {warning}")
    for case, error in sorted(failed.items()):
        print(f"{case}: FAILED: {error}")
    earlier = sum("from_earlier" in record for record in found.cases.values())
    if earlier:
        print(f"{earlier} of {len(found.cases)} cases had been segmented before and have not changed.")
    if args.num_parts > 1:
        print(
            f"Part {args.part_id} of {args.num_parts} is segmented; without -num_parts, {TREES}, {BRANCHES} and "
            f"{REPORT} follow"
        )
    elif measurement.cases:
        if others := [case for case in measurement.others if case not in failed]:
            print(f"Not among the CTs given now, and so not in the tables and on the page: {some(others)}")
        segs = ", DICOM SEG" if args.dicom_seg else ""
        print(f"Results are in {args.o}: the trees{segs}, {TREES}, {BRANCHES}; open {args.o / REPORT} in a browser")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(found.cts | failed)} cases failed, see above"
            + ("; the others are complete" if measurement.cases else "")
        )
