"""``nnUNetv2_airway_report``: rows of one's own in tables of published figures."""

import argparse
from pathlib import Path

from nnunetv2_airway.cli.common import run
from nnunetv2_airway.evaluation.report import fill, find_template, read_models, template_names
from nnunetv2_airway.files import write_text


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_report",
        description="Put evaluations as rows into a table of published figures: mean and standard deviation of cases.",
    )
    parser.add_argument(
        "-i", type=Path, nargs="+", required=True, metavar="FOLDER", help="what nnUNetv2_airway_evaluate has written"
    )
    parser.add_argument(
        "-n",
        nargs="+",
        metavar="NAME",
        help="a name for each evaluation (default: its folder's); those of one name, such as folds, become one row",
    )
    parser.add_argument(
        "-t",
        default="ATM22",
        metavar="TABLE",
        help=f"{', '.join(template_names())}, or the path of a template of your own (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="tables to write, as .md, .csv or .tex (default: print it as Markdown)",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(arguments)
    run(lambda: _report(args))


def _report(args: argparse.Namespace) -> None:
    models = read_models(args.i, args.n)
    endings = [file.suffix for file in args.o] if args.o else [Path(args.t).suffix or ".md"]
    templates = [find_template(args.t, ending) for ending in endings]
    tables = [
        fill(template.read_text(encoding="utf-8"), models, ending)
        for template, ending in zip(templates, endings, strict=True)
    ]
    for model in models:
        for warning in model.warnings:
            print(f"WARNING: {warning}")
    if not args.o:
        print(tables[0], end="")
    for file, table in zip(args.o or [], tables, strict=False):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, table)
        print(f"wrote {file}: {', '.join(f'{model.name} ({len(model.metrics)} cases)' for model in models)}")
