"""Tables of published figures with rows of one's own: jinja2 templates filled from evaluations.

A template is any Markdown, CSV or LaTeX file with a loop over ``models``. Each has a ``name``, its number of ``cases``,
and the ``mean``, ``std``, ``median`` and ``count`` of every figure of ``summary.json``, such as
``{{ model.mean.dice | figure(1) }}`` or ``{{ model.std.by_diameter["0-2"].dice | figure(2) }}``; the filter ``figure``
rounds, and writes a dash where no case has the figure.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, StrictUndefined, TemplateError, meta

import nnunetv2_airway
from nnunetv2_airway.evaluation.summary import summarise
from nnunetv2_airway.io.errors import UserError

LATEX = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def _markdown(text: str) -> str:
    return re.sub(r"([\\|])", r"\\\1", text)


def _csv(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search('[",]', text) else text


def _latex(text: str) -> str:
    escaped = re.sub(r"[&%$#_{}~^\\]", lambda sign: LATEX.get(sign[0], "\\" + sign[0]), text)
    return f"{{{escaped}}}"  # in braces: a row's [ or * would be taken for an argument of the line break before it


FORMATS = {".md": _markdown, ".csv": _csv, ".tex": _latex}
"""The endings of templates, and how a name is written so that it does not break the table."""
UNDEFINED = "-"
LOOP = "{% for model in models %}{{ model.name }} ...{% endfor %}"
"""What a template must have."""


@dataclass(frozen=True)
class Model:
    """A row to be: a model's name, the figures of all its cases, and what its evaluations left out.

    Args:
        name: as it shall stand in the table.
        metrics: the figures of each case.
        cases: their names.
        evaluations: the folder of each case's evaluation.
        left_out: cases without a prediction and cases that failed.
        empty: cases whose prediction is empty.
    """

    name: str
    metrics: list[dict] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What a reader of the row should know."""
        twice = sorted(case for case, times in Counter(self.cases).items() if times > 1)
        words = {
            "cases that were not evaluated": self.left_out,
            "cases with an empty prediction, which lowers mean leakage": self.empty,
            "cases that count more than once": twice,
        }
        return [f"{self.name} has {text}: {', '.join(cases)}" for text, cases in words.items() if cases]


def read_models(evaluations: Sequence[Path], names: Sequence[str] | None = None) -> list[Model]:
    """Read evaluations; those of one name, such as the folds of a cross-validation, become one model.

    Args:
        evaluations: folders that ``nnUNetv2_airway_evaluate`` wrote, or their ``summary.json``.
        names: one for each; by default the folder's, or where that is "evaluation", its parent's.

    Raises:
        UserError: an evaluation cannot be read or has no case, names do not fit, or default names are alike.
    """
    if names is None:
        names = [_default_name(folder) for folder in evaluations]
        if len(set(names)) < len(names):
            raise UserError(
                f"the evaluations' folders have the same name ({', '.join(names)}): name the models with -n; those of "
                f"one name are pooled"
            )
    if len(names) != len(evaluations):
        raise UserError(f"one name for each evaluation is needed, got {len(names)} for {len(evaluations)}")
    if len({folder.resolve() for folder in evaluations}) < len(evaluations):
        raise UserError("an evaluation is given twice; its cases would count twice")
    models = {name: Model(" ".join(name.split())) for name in names}
    for name, folder in zip(names, evaluations, strict=True):
        summary = _read_summary(folder)
        models[name].metrics.extend(case["metrics"] for case in summary["metric_per_case"])
        models[name].cases.extend(case["case"] for case in summary["metric_per_case"])
        own = folder if folder.is_dir() else folder.parent
        models[name].evaluations.extend([own] * len(summary["metric_per_case"]))
        models[name].left_out.extend([*summary["missing"], *summary["failed"]])
        models[name].empty.extend(summary["empty"])
    return list(models.values())


def fill(template: str, models: Sequence[Model], ending: str) -> str:
    """Fill a template.

    Args:
        template: its text.
        models: one row each, in this order.
        ending: of the template's file, a key of ``FORMATS``.

    Raises:
        UserError: it is no jinja2 template, asks for something that is no figure, or has no row for the models.
    """
    environment = Environment(
        undefined=StrictUndefined,
        finalize=lambda value: UNDEFINED if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = _figure
    rows = [
        {"name": FORMATS[ending](model.name), "cases": len(model.metrics), **summarise(model.metrics)}
        for model in models
    ]
    try:
        if "models" not in meta.find_undeclared_variables(environment.parse(template)):
            raise UserError(f"the template has no row for the models, which is written as {LOOP}")
        return environment.from_string(template).render(models=rows)
    except (TemplateError, TypeError) as error:
        raise UserError(f"the template cannot be filled: {error}. A row for each model is written as {LOOP}") from error


def _figure(value: float | None, digits: int = 1) -> str:
    if not isinstance(digits, int):
        raise TypeError(f"figure takes a number of digits, such as figure(1), got {digits!r}")
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def find_template(name: str, ending: str) -> Path:
    """Find a template of ours by name, or one of the user's by path.

    Raises:
        UserError: there is none, or it has another ending.
    """
    if ending not in FORMATS:
        raise UserError(
            f"a table is written as {', '.join(FORMATS)}, a page as .html, not as {ending or 'a file without ending'}"
        )
    file = Path(name)
    if not file.is_file():
        ours = name if file.suffix in FORMATS else f"{name}{ending}"
        file = next((each for each in _folder().iterdir() if each.name.lower() == ours.lower()), _folder() / ours)
    if not file.is_file():
        raise UserError(
            f"there is no template {name}: it is neither a file, seen from {Path.cwd()}, nor one of ours, "
            f"{', '.join(template_names())}"
        )
    if file.suffix != ending:
        raise UserError(f"the template {file} fills {file.suffix} files, not {ending}")
    return file


def template_names() -> list[str]:
    """List the templates that come with the package."""
    return sorted({file.stem for file in _folder().iterdir() if file.suffix in FORMATS})


def _folder() -> Path:
    """The templates: inside the package when it is installed, beside it in a checkout."""
    package = Path(nnunetv2_airway.__file__).parent
    installed = package / "results_templates"
    return installed if installed.is_dir() else package.parent / "results_templates"


def _default_name(evaluation: Path) -> str:
    folder = evaluation.resolve()
    folder = folder.parent if folder.is_file() else folder
    return folder.parent.name if folder.name == "evaluation" else folder.name


def _read_summary(evaluation: Path) -> dict:
    file = evaluation / "summary.json" if evaluation.is_dir() else evaluation
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        complete = summary["metric_per_case"] and {"empty", "missing", "failed"} <= summary.keys()
        complete = complete and all("atm26" in case["metrics"] for case in summary["metric_per_case"])
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; run nnUNetv2_airway_evaluate first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a summary of nnUNetv2_airway_evaluate") from error
    if not complete:
        raise UserError(
            f"{file} holds no case that this version's nnUNetv2_airway_evaluate has evaluated: run it first"
        )
    return summary
