"""``nnUNetv2_airway_report``: a page that shows the trees, and rows of one's own in tables of published figures."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_airway.cli.common import positive, run
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import write_text
from nnunetv2_airway.report.tables import Model, fill, find_template, read_models, template_names

PAGE = ".html"
MEASURED = "trees.csv"
"""Stands in a folder of ``nnUNetv2_airway_measure``."""
WORDS = """
Mean rank: over the cases and the metrics of ATM'26; 1 is the best. Rank of means: over the metrics, of their means over
the cases. TLD and BD count a prediction's largest piece alone, the score of ATM'22 all of it: the mean of tree length
detected, branch detected, Dice and precision. Figures, and differences of a case: mean ± standard deviation."""
"""Below a ranking."""


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_airway_report",
        description="Show evaluations: as a page with every airway tree to turn and pick branches in, one HTML file "
        "that needs no other, and as rows in a table of published figures.",
    )
    parser.add_argument(
        "-i",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="what nnUNetv2_airway_evaluate has written, or nnUNetv2_airway_measure",
    )
    parser.add_argument(
        "-n",
        nargs="+",
        metavar="NAME",
        help="a name for each evaluation (default: its folder's); those of one name, such as folds, become one row",
    )
    parser.add_argument(
        "-t",
        metavar="TABLE",
        help=f"published figures beside: {', '.join(template_names())}, or the path of a template of your own "
        "(default: ATM22)",
    )
    parser.add_argument(
        "-o",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="a page as .html, of one model or two to compare, tables as .md, .csv or .tex (default: print the table "
        "as Markdown)",
    )
    parser.add_argument(
        "--rank",
        action="store_true",
        help="rank two or more models as ATM'26 does (mean of the ranks over cases and metrics), beside the score of "
        "ATM'22, with their differences case by case; -o as .md or .csv",
    )
    parser.add_argument("--ct", type=Path, metavar="FOLDER", help="CTs of the cases, to show planes of on the page")
    parser.add_argument("-np", type=positive, default=2, metavar="N", help="cases worked on at once (default: 2)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(arguments)
    run(lambda: _report(args))


def _report(args: argparse.Namespace) -> None:
    if any(map(_is_measured, args.i)):
        if args.rank:
            raise UserError("--rank is for evaluations; masks that were measured have no reference to compare with")
        _report_measured(args)
        return
    models = read_models(args.i, args.n)
    if args.rank:
        _report_ranking(args, models)
        return
    args.t = args.t or "ATM22"
    files = args.o or []
    pages = [file for file in files if file.suffix == PAGE]
    if args.ct and not pages:
        raise UserError("--ct is for a page: name one with -o, such as -o report.html")
    tables = {file: _table(args.t, file.suffix, models) for file in files if file not in pages}
    _warn(models)
    if not files:
        print(_table(args.t, Path(args.t).suffix or ".md", models), end="")
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, tables[file] if file in tables else _page(args, models))
        print(f"wrote {file}: {', '.join(f'{model.name} ({len(model.metrics)} cases)' for model in models)}")


def _is_measured(folder: Path) -> bool:
    """Whether masks were measured into a folder; parts of a job array have no tables yet."""
    return (folder / MEASURED).is_file() or ((folder / "export").is_dir() and not (folder / "summary.json").is_file())


def _report_measured(args: argparse.Namespace) -> None:
    from nnunetv2_airway.report.page.measured import make_measured_page

    if len(args.i) > 1 or len(args.o or []) != 1 or args.o[0].suffix != PAGE:
        raise UserError("a measurement is shown on a page of its own: -i FOLDER -o report.html")
    (file,) = args.o
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, make_measured_page(args.i[0], ct=args.ct, processes=args.np))
    print(f"wrote {file}")


def _report_ranking(args: argparse.Namespace, models: Sequence[Model]) -> None:
    from nnunetv2_airway.report.ranking import left_out, rank, ranking_table

    if args.ct or args.t:
        raise UserError("--rank makes no page (--ct) and has no published figures (-t) beside")
    ranked = rank(models)
    tables = {file: ranking_table(ranked, file.suffix) for file in args.o or []}
    _warn(models)
    for warning in left_out(models):
        print(f"WARNING: {warning}")
    for file, table in tables.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, table)
        print(f"wrote {file}")
    if not tables:
        print(ranking_table(ranked, ".md"), end="")
    print(WORDS)


def _warn(models: Sequence[Model]) -> None:
    for model in models:
        for warning in model.warnings:
            print(f"WARNING: {warning}")


def _table(name: str, ending: str, models: Sequence[Model]) -> str:
    return fill(find_template(name, ending).read_text(encoding="utf-8"), models, ending)


def _page(args: argparse.Namespace, models: Sequence[Model]) -> str:
    from nnunetv2_airway.report.page.write import make_page  # late, so that -h answers at once

    return make_page(models, table=args.t, ct=args.ct, processes=args.np)
