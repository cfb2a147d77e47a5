"""``nnUNetv2_airway_convert``: airway data sets as nnU-Net raw data sets, CTs for prediction."""

import argparse
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunetv2_airway.cli.common import add_ct_options, dataset_id, positive, read_scales, require_cases, run
from nnunetv2_airway.conversion.datasets import LAYOUTS
from nnunetv2_airway.conversion.layout import Case, Layout
from nnunetv2_airway.io.errors import UserError, some


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_convert",
        description="Convert CTs and airway labels to an nnU-Net raw data set: CTs in Hounsfield units, set to 0 "
        "outside the lungs' box, labels checked against them, with a report and a contact sheet to look at. "
        "Interrupted, the same command goes on where it stopped.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="DATASET")
    folder = commands.add_parser(
        "folder",
        help="any folder of CTs (NIfTI, NRRD, MetaImage, or a folder with a DICOM series for each case) and one of "
        "labels",
    )
    add_arguments(folder, None)
    for name, layout in LAYOUTS.items():
        add_arguments(commands.add_parser(name, help=f"{layout.files}; id {layout.number}"), layout)
    return parser


def add_arguments(parser: argparse.ArgumentParser, layout: Layout | None) -> None:
    """Add the arguments of one data set, or with None those of any folder."""
    parser.set_defaults(layout=layout)
    own = parser.add_argument_group("what to convert")
    if layout is None:
        own.add_argument(
            "-i",
            type=Path,
            required=True,
            metavar="FOLDER",
            help="CTs: image files, or a folder of DICOM files for each case; without -l a folder that holds images "
            "and labels in two folders of such names",
        )
        own.add_argument(
            "-l", "--labels", type=Path, metavar="FOLDER", help="labels, named like the CTs, with or without _0000"
        )
        own.add_argument(
            "--label-suffix",
            default="",
            metavar="TEXT",
            help="what label names have behind the CT's, such as _airway; then both may lie in one folder",
        )
    else:
        own.add_argument(
            "-i",
            type=Path,
            nargs="+",
            required=True,
            metavar="FOLDER",
            help=f"{layout.files}; several folders if need be",
        )
    own.add_argument(
        "--images-only", action="store_true", help="prepare the CTs alone, for nnUNetv2_predict; -o is their folder"
    )
    where = parser.add_argument_group("where to")
    where.add_argument(
        "-d",
        type=dataset_id,
        default=layout and layout.number,
        metavar="ID",
        help="data set id" + (f" (default: {layout.number})" if layout else ", such as 510"),
    )
    where.add_argument(
        "-name",
        default=layout.command if layout else "Airways",
        help="data set name after DatasetXXX_ (default: %(default)s)",
    )
    where.add_argument(
        "-o",
        type=Path,
        metavar="FOLDER",
        help="where to write the data set's folder (default: the variable nnUNet_raw)",
    )
    where.add_argument(
        "--overwrite", action="store_true", help="remove what was converted into this folder before, and start anew"
    )
    how = parser.add_argument_group("how")
    how.add_argument("-np", type=positive, default=2, metavar="N", help="cases converted at once (default: 2)")
    add_ct_options(how, "set the CT to 0 outside the box of the lungs, with this margin (default: 10); geometry stays")
    how.add_argument(
        "--lumen",
        type=int,
        nargs="+",
        metavar="VALUE",
        help="label values that are airway lumen, where labels also hold walls or lobes (default: all above 0)",
    )
    how.add_argument(
        "--ignore-label-header",
        nargs="*",
        metavar="CASE",
        help="take the CT's spacing, origin and direction for the labels of these cases, or of all, whatever their "
        "headers say",
    )
    how.add_argument(
        "--accept", nargs="+", default=[], metavar="CASE", help="take these cases although their labels seem wrong"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(arguments)
    run(lambda: _convert(args, args.layout))


def run_script(layout: Layout, arguments: list[str] | None = None) -> None:
    """Run the command for one data set, from its script."""
    parser = argparse.ArgumentParser(description=f"Convert {layout.files} to an nnU-Net raw data set.")
    add_arguments(parser, layout)
    args = parser.parse_args(arguments)
    run(lambda: _convert(args, args.layout))


def _convert(args: argparse.Namespace, layout: Layout | None) -> None:
    from nnunetv2_airway.conversion.folder import Destination, convert_cases
    from nnunetv2_airway.conversion.results import REPORT, SHEET, is_training
    from nnunetv2_airway.io.raw_data import dataset_folder

    sources = [_folder(folder) for folder in ([args.i] if layout is None else args.i)]
    if args.images_only:
        if args.o is None:
            raise UserError("--images-only needs -o FOLDER, where the CTs for nnUNetv2_predict are written")
        destination = Destination(args.o, only_images=True)
    elif args.d is None:
        raise UserError("a data set id is needed: -d 510, or --images-only -o FOLDER for CTs to predict")
    else:
        destination = Destination(dataset_folder(args.o, args.d, args.name))
    cases = _folder_cases(args, sources[0]) if layout is None else layout.find_cases(sources)
    if not cases:
        expected = layout.files if layout else "image files, or folders with DICOM files"
        raise UserError(f"no cases found in {', '.join(map(str, sources))}; expected: {expected}")
    scales = read_scales(args.scale)
    named = {
        "accept": args.accept,
        "scale": filter(None, scales),
        "ignore-label-header": args.ignore_label_header or [],
    }
    for option, given in named.items():
        require_cases(option, given, [case.name for case in cases], sources[0])
    if args.images_only:
        cases = [replace(case, label=None, problem="" if case.ct else case.problem) for case in cases]
    elif not any(case.label for case in cases):
        raise UserError(
            f"none of the {len(cases)} cases has a label"
            + (f"; {layout.notice}" if layout and layout.notice else "")
            + ". For CTs to predict: --images-only -o FOLDER"
        )
    conversion = convert_cases(
        cases,
        destination,
        partial(_options, args, scales, layout and layout.lost_scale),
        left_out=layout.left_out if layout else {},
        description=f"Airways in chest CT, converted from {layout.files if layout else ', '.join(map(str, sources))}",
        licence=layout.licence if layout else "",
        reference=layout.reference if layout else "",
        overwrite=args.overwrite,
        processes=args.np,
    )
    _print(conversion)
    training = sum(map(is_training, conversion.records.values()))
    test = len(conversion.records) - training
    ready = f"{test} CTs for nnUNetv2_predict" if args.images_only else f"{training} training and {test} test cases"
    before = sum("from_earlier" in record for record in conversion.records.values())
    print(
        f"{ready} are in {destination.folder}" + (f", {before} of them unchanged since an earlier run" * bool(before))
    )
    if layout and layout.notice:
        print(f"Note: {layout.notice}")
    print(f"Look at {destination.folder / SHEET}; details are in {REPORT} beside it.")
    if conversion.failed and not conversion.records:
        raise UserError(f"none of the {len(conversion.failed)} cases could be converted, see above")
    if conversion.failed:
        failed = len(conversion.failed)
        raise UserError(
            f"{failed} of {failed + len(conversion.records)} cases could not be converted, see above; the others are "
            f"complete. Once mended, the same command converts what is missing"
        )


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    return folder.resolve()  # a case is known again from another working folder


def _folder_cases(args: argparse.Namespace, images: Path) -> list[Case]:
    from nnunetv2_airway.conversion.any_folder import find_cases, find_pair

    if args.images_only:
        return find_cases(images, None, suffix=args.label_suffix)
    images, labels = (images, _folder(args.labels)) if args.labels else find_pair(images)
    return find_cases(images, labels, suffix=args.label_suffix)


def _options(
    args: argparse.Namespace, scales: dict[str, tuple[float, float]], lost: tuple[float, float] | None, case: str
):
    from nnunetv2_airway.conversion.case import Options

    return Options(
        lumen=args.lumen and tuple(args.lumen),
        margin=args.lung_box,
        ignore_label_header=args.ignore_label_header is not None and case in (args.ignore_label_header or [case]),
        scale=scales.get(case, scales.get("")),
        lost_scale=lost,
        series=tuple(args.series),
        accept=case in args.accept,
    )


def _print(conversion) -> None:
    """Print what a person should know; what is the same for several cases stands on one line."""
    for kind, word in (("notes", ""), ("warnings", "WARNING: ")):
        cases = defaultdict(list)
        for name, record in conversion.records.items():
            for text in dict.fromkeys(record[kind]):
                cases[text].append(name)
        for text, names in cases.items():
            print(f"{some(names)}: {word}{text}")
    for name, why in conversion.left_out.items():
        print(f"{name}: left out: {why}")
    for name, error in conversion.failed_before.items():
        print(f"{name}: failed in an earlier run: {error}")
    for name, error in conversion.failed.items():
        print(f"{name}: FAILED: {error}")
    for warning in conversion.warnings:
        print(f"WARNING: {warning}")
