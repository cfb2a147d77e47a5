"""Drawings of the page as SVG, in the page's own text colour, so that they follow light and dark."""

import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_airway.evaluation.summary import Challenge, flatten

Models = Mapping[str, Mapping[str, dict]]
SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
INK = "#010203"
"""Stands for the page's text colour."""
COLOURS = ("#3b82c4", "#c46a1a")
"""Of the models."""
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "airway", "font.family": "sans-serif", "font.size": 10,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "text.parse_math": False,
}  # fmt: skip
SHORT = 13
"""Characters of a name that have room below an axis."""
WORDS = {"tree_length_detected": "tree length", "branch_detected": "branches"}
OF_GENERATION = {"Length, mm": "length_mm", "Mean diameter, mm": "diameter_mm"}
GROUPS = {"Airway diameter, mm": "by_diameter", "Generation": "by_generation"}


@dataclass(frozen=True)
class Drawing:
    """A drawing as SVG, and the same in words."""

    title: str
    svg: str
    words: str


@rc_context(STYLE)
def distributions(models: Models, challenge: Challenge) -> list[Drawing]:
    """Draw a challenge's figures of all cases, a dot each that leads to its case, with median and quartiles.

    Args:
        models: the figures of each case by its name, for each model.
        challenge: whose figures.
    """
    return [_distribution(title, name, models, challenge.digits - 1) for title, name in challenge.page.items()]


def _distribution(title: str, name: str, models: Models, digits: int) -> Drawing:
    figure, axes = _axes()
    words = []
    for place, (model, metrics) in enumerate(models.items()):
        values = {case: dict(flatten(each)).get(name) for case, each in metrics.items()}
        values = {case: value for case, value in values.items() if value is not None}
        if not values:
            continue
        axes.boxplot(
            list(values.values()), positions=[place], widths=0.5, showfliers=False, manage_ticks=False,
            **{f"{part}props": {"color": INK} for part in ("box", "whisker", "cap", "median")},
        )  # fmt: skip
        # cases side by side, in an order that is the same for each model
        beside = [place + 0.36 * ((0.618 * k) % 1 - 0.5) for k in range(len(values))]
        dots = axes.scatter(beside, list(values.values()), s=16, color=COLOURS[place % 2], alpha=0.75, zorder=3)
        dots.set_urls([f"#case={quote(case)}" for case in values])
        words.append(
            f"{model}: median {statistics.median(values.values()):.{digits}f}, {min(values.values()):.{digits}f} to "
            f"{max(values.values()):.{digits}f}"
        )
    axes.set(xticks=range(len(models)), xlim=(-0.6, len(models) - 0.4), ylabel=title)
    axes.set_xticklabels([_short(name) for name in models])
    return Drawing(title, _svg(figure, title), "; ".join(words))


@rc_context(STYLE)
def by_groups(models: Models) -> list[Drawing]:
    """Draw how much is detected by airway diameter and by generation, means with one standard deviation around."""
    drawings = []
    for title, group in GROUPS.items():
        figure, axes = _axes(5.6)
        words = []
        groups = list(dict.fromkeys(key for cases in models.values() for case in cases.values() for key in case[group]))
        for place, (name, cases) in enumerate(models.items()):
            for figure_name, line in zip(WORDS, ("-", ":"), strict=True):
                found = {key: _values(cases.values(), group, key, figure_name) for key in groups}
                _draw_means(axes, groups, found, COLOURS[place % 2], line, f"{_short(name)}, {WORDS[figure_name]}")
                means = (f"{key} {statistics.fmean(values):.0f} %" for key, values in found.items() if values)
                words.append(f"{name}, {WORDS[figure_name]}: {', '.join(means)}")
        axes.set(xlabel=f"{title} (branches in all)", ylabel="detected, %", ylim=(-3, 103), xticks=range(len(groups)))
        cases = next(iter(models.values())).values()
        branches = [sum(case[group].get(key, {}).get("branches") or 0 for case in cases) for key in groups]
        axes.set_xticklabels([f"{key}\n({number})" for key, number in zip(groups, branches, strict=True)])
        axes.legend(frameon=False, fontsize=9, loc="lower left")
        drawings.append(Drawing(f"Detected by {title[0].lower()}{title[1:]}", _svg(figure, title), "; ".join(words)))
    return drawings


@rc_context(STYLE)
def generations_beside_others(case: str, summaries: Mapping[str, dict]) -> list[Drawing]:
    """Draw a measured tree's length and diameter by generation, beside the mean of the other cases.

    Args:
        case: its name.
        summaries: those of all cases by name, as ``Branches.summary``.
    """
    drawings = []
    for title, name in OF_GENERATION.items():
        figure, axes = _axes(5.6)
        groups = {other: _by_generation(summary, name) for other, summary in summaries.items()}
        own = groups.pop(case)
        words = [f"{case}: {', '.join(f'{key} {value:.1f}' for key, value in own.items())}"]
        means = {}
        for key in sorted({key for group in groups.values() for key in group}):
            values = [group[key] for group in groups.values() if key in group]
            means[key] = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        if means:
            places, (middle, spread) = list(means), zip(*means.values(), strict=True)
            label = f"mean of {len(groups)} other{'s' * (len(groups) > 1)}"
            axes.plot(places, middle, "--", color=COLOURS[1], marker="o", markersize=4, label=label)
            low, high = ([max(m + sign * s, 0) for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(places, low, high, color=COLOURS[1], alpha=0.15, linewidth=0)
            words.append(f"{label}: {', '.join(f'{key} {mean:.1f}' for key, (mean, _) in means.items())}")
        axes.plot(list(own), list(own.values()), "-", color=COLOURS[0], marker="o", markersize=4, label=_short(case))
        axes.set(xlabel="Generation", ylabel=title, ylim=(0, None), xticks=range(max([*own, *means], default=0) + 1))
        axes.legend(frameon=False, fontsize=9)
        drawings.append(Drawing(title, _svg(figure, f"{case} {title}"), "; ".join(words)))
    return drawings


def _by_generation(summary: dict, name: str) -> dict[int, float]:
    found = {int(key): group[name] for key, group in summary["by_generation"].items()}
    return {key: value for key, value in found.items() if value is not None}


def _draw_means(
    axes: Axes, groups: Sequence[str], found: Mapping[str, list[float]], colour: str, line: str, label: str
) -> None:
    places = [place for place, key in enumerate(groups) if found[key]]
    means = [statistics.fmean(found[groups[place]]) for place in places]
    axes.plot(places, means, line, color=colour, marker="o", markersize=4, label=label)
    if line == "-":
        spread = [statistics.stdev(found[groups[k]]) if len(found[groups[k]]) > 1 else 0 for k in places]
        low = [max(mean - each, 0) for mean, each in zip(means, spread, strict=True)]
        high = [min(mean + each, 100) for mean, each in zip(means, spread, strict=True)]
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def _values(cases: Iterable[dict], group: str, key: str, name: str) -> list[float]:
    values = (case[group].get(key, {}).get(name) for case in cases)
    return [value for value in values if value is not None]


def _short(name: str) -> str:
    return name if len(name) <= SHORT else f"{name[: SHORT - 1]}…"


def _axes(width: float = 2.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="y", alpha=0.25, color=INK)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """Write a figure as SVG to stand in a page: with names and a size that disturb no other, in the page's colour."""
    file = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        for child in [child for child in element if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            element.remove(child)
        if element.tag == f"{{{SVG}}}g":
            element.attrib.pop("id", None)
        if element.tag == f"{{{SVG}}}a":
            element.attrib.pop("target", None)
            element.set("tabindex", "-1")  # by keyboard, the table of cases leads to them
    for side in ("width", "height"):
        del root.attrib[side]
    root.set("aria-hidden", "true")
    return ElementTree.tostring(root, encoding="unicode").replace(INK, "currentColor")
