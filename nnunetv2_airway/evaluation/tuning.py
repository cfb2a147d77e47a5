"""Operating points compared on validation cases: figures of each, the choice, a table and a picture.

After nnU-Net's ``find_best_configuration``: what is chosen on validation cases is applied to others.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib import style
from matplotlib.figure import Figure

from nnunetv2_airway.evaluation.challenges import DETECTED
from nnunetv2_airway.evaluation.metrics import DIAMETERS, percent
from nnunetv2_airway.inference.operating_point import DEFAULT, FILE, OperatingPoint, write_operating_point
from nnunetv2_airway.inference.postprocessing import write_postprocessing_pkl
from nnunetv2_airway.inference.probabilities import probabilities_of, read_probability
from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import alone_in, atomic_path, digest_of, read_record, without_nan, write_csv, write_record
from nnunetv2_airway.io.images import read_mask, require_same_geometry
from nnunetv2_airway.io.parallel import results_and_failures
from nnunetv2_airway.tree import store as tree_store
from nnunetv2_airway.tree.branches import measure_branches
from nnunetv2_airway.tree.components import largest_component
from nnunetv2_airway.tree.parse import AirwayTree

FORMAT = f"3 {tree_store.FORMAT}"
"""Another one has every case tuned again."""
LOGITS = (-5, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8.5, 10)
SEED = 2.0
"""Logit above that of the threshold."""
THIN = -4.0
"""Logit below that of the threshold."""
BRIDGES = (-1.0, -2.0, -3.0)
"""Logits below that of the lower threshold."""
STRICTER = 2
"""Thresholds from the best one on, whose pieces are joined."""
SCORED = ("tree_length_detected", "branch_detected", "dice", "precision")
SMALL = "tree_length_detected_0-2"
FIGURES = {
    "length %": "tree_length_detected",
    "branches %": "branch_detected",
    "Dice %": "dice",
    "precision %": "precision",
    "length %, 0-2 mm": SMALL,
}
TABLE, PICTURE, RECORDS, PKL = "operating_points.csv", "operating_points.png", "operating_points", "postprocessing.pkl"


def thresholds() -> list[OperatingPoint]:
    """List the thresholds that are compared first, one for all airways and a lower one for thin airways."""
    return [
        OperatingPoint(_probability(logit), thin=thin and _probability(logit + thin))
        for thin, logit in product((None, THIN), LOGITS)
    ]


def refinements(point: OperatingPoint) -> list[OperatingPoint]:
    """List post-processings of a threshold and of the next stricter ones: reconnection, with and without hysteresis.

    Hysteresis alone changes nothing in the largest piece, of which figures are computed.
    """
    alike = [each for each in thresholds() if (each.thin is None) == (point.thin is None)]
    stricter = sorted((each for each in alike if each.threshold >= point.threshold), key=lambda each: each.threshold)
    return [
        replace(at, seed=seed and _shifted(at.threshold, seed), bridge=_shifted(at.thin or at.threshold, bridge))
        for at, seed, bridge in product(stricter[:STRICTER], (None, SEED), BRIDGES)
    ]


def _shifted(probability: float, logits: float) -> float:
    return _probability(math.log(probability / (1 - probability)) + logits)


def _probability(logit: float) -> float:
    return round(1 / (1 + math.exp(-logit)), 6)


@dataclass(frozen=True)
class Reference:
    """What predictions of a case are counted against: its tree, and which branches are below 2 mm, (B,) bool."""

    tree: AirwayTree
    small: np.ndarray

    @classmethod
    def of(cls, tree: AirwayTree, spacing: Sequence[float]) -> "Reference":
        """Measure a tree at a spacing (z, y, x) in mm."""
        low, high = DIAMETERS["0-2"]
        return cls(tree, np.array([low < branch.diameter <= high for branch in measure_branches(tree, spacing)], bool))

    def figures(self, mask: np.ndarray) -> dict[str, float]:
        """Compute the figures of a mask (Z, Y, X) bool in percent, as ``evaluate_case`` defines them."""
        tree = self.tree
        found = mask[tuple(tree.line.T)]
        line, line_found = (
            np.bincount(numbers, minlength=tree.num_branches + 1)[1:]
            for numbers in (tree.line_branch, tree.line_branch[found])
        )
        true, predicted = (int(np.count_nonzero(each)) for each in (mask[tuple(tree.voxels.T)], mask))
        return {
            "tree_length_detected": percent(line_found.sum(), line.sum()),
            "branch_detected": percent((line_found / line >= DETECTED).sum(), len(line)),
            "dice": percent(2 * true, predicted + len(tree.voxels)),
            "precision": percent(true, predicted) if predicted else 0.0,
            SMALL: percent(line_found[self.small].sum(), line[self.small].sum()),
        }


@dataclass(frozen=True)
class Tuning:
    """Operating points compared.

    Args:
        cases: figures of each point, by case.
        chosen: the best point.
        criterion: in words.
        failed: what went wrong in each case that could not be used.
    """

    cases: dict[str, dict[OperatingPoint, dict[str, float]]]
    chosen: OperatingPoint
    criterion: str
    failed: dict[str, str]

    @property
    def points(self) -> list[OperatingPoint]:
        """All points, in the order in which they were tried."""
        return list(next(iter(self.cases.values())))

    def means(self, point: OperatingPoint) -> dict[str, float]:
        """Mean figures of a point over the cases in which they are defined."""
        return mean_figures(self.cases, point)


def score(figures: Mapping[str, float]) -> float:
    """Mean of length, branches, Dice and precision, as in ATM'22."""
    return statistics.fmean(figures[name] for name in SCORED)


def mean_figures(cases: Mapping[str, Mapping[OperatingPoint, Mapping]], point: OperatingPoint) -> dict[str, float]:
    """Mean figures of a point over the cases in which they are defined."""
    means = {}
    for name in FIGURES.values():
        values = [figures[point][name] for figures in cases.values() if not math.isnan(figures[point][name])]
        means[name] = statistics.fmean(values) if values else math.nan
    return means


def tune(
    files: Mapping[str, tuple[Path, Path]],
    output: Path,
    *,
    precision: float | None = None,
    thresholds_only: bool = False,
    also: Sequence[OperatingPoint] = (),
    checkpoints: Mapping[str, str] | None = None,
    processes: int = 2,
) -> Tuning:
    """Compare operating points on cases and write the best one.

    First thresholds are compared, of which the largest connected component is kept; then post-processings of the best.
    Writes ``operating_point.json``, ``operating_points.csv``, ``operating_points.png`` and ``postprocessing.pkl``, and
    keeps what has been computed of each case in ``operating_points``.

    Args:
        files: prediction with probabilities beside it, and reference, by case.
        output: folder of the results.
        precision: choose the point that finds the greatest length among those of at least this mean precision, in
            percent; None takes the mean of length, branches, Dice and precision.
        thresholds_only: compare no hysteresis and no reconnection.
        also: further points.
        checkpoints: digests of the model's, which are kept with the choice, by their names in its folder.
        processes: cases worked on at once; each takes about 3 GB for a CT of 512 x 512 x 400.

    Raises:
        UserError: no case can be used, or no point is as precise as wanted.
        OSError: the results cannot be written.
    """
    (output / RECORDS).mkdir(parents=True, exist_ok=True)
    with alone_in(output):
        points = thresholds()
        cases, failed = _figures_of(files, output, points, processes, "thresholds")
        refined = [] if thresholds_only else refinements(_best(cases, points, precision))
        points = list(dict.fromkeys((*points, *refined, *also)))
        cases, others = _figures_of({case: files[case] for case in cases}, output, points, processes, "post-processing")
        best = _best(cases, points, precision)
        criterion = "mean of length, branches, Dice and precision"
        if precision is not None:
            criterion = f"greatest length at a precision of at least {precision:g} %"
        tuning = Tuning(cases, best, criterion, failed | others)
        _write(tuning, output, checkpoints or {})
        return tuning


def _best(cases: Mapping, points: Sequence[OperatingPoint], precision: float | None) -> OperatingPoint:
    if not cases:
        raise UserError("no case could be used, see above")
    means = {point: mean_figures(cases, point) for point in points}
    if precision is None:
        return max(points, key=lambda point: score(means[point]))
    precise = [point for point in points if means[point]["precision"] >= precision]
    if not precise:
        most = max(figures["precision"] for figures in means.values())
        raise UserError(
            f"no operating point has a precision of {precision:g} %, the most is {most:.1f} %: ask for less"
        )
    return max(precise, key=lambda point: means[point]["tree_length_detected"])


def _figures_of(
    files: Mapping[str, tuple[Path, Path]], output: Path, points: Sequence[OperatingPoint], processes: int, words: str
) -> tuple[dict, dict[str, str]]:
    work = {case: (case, *both, output, list(points)) for case, both in files.items()}
    found, failed = results_and_failures(figures_of_case, work, processes=processes, description=words)
    if failed and not found:
        raise UserError("; ".join(f"{case}: {error}" for case, error in failed.items()))
    return found, failed


def figures_of_case(
    case: str, prediction: Path, reference: Path, output: Path, points: Sequence[OperatingPoint]
) -> dict[OperatingPoint, dict[str, float]]:
    """Compute the figures of a case at operating points, or read those that an earlier call has computed.

    Raises:
        UserError: a file cannot be read, or they do not belong together.
    """
    record_file = output / RECORDS / f"{case}.json"
    made_from = {
        "format": FORMAT,
        "probabilities": digest_of(probabilities_of(prediction)) if probabilities_of(prediction).is_file() else "",
        "reference": digest_of(reference),
    }
    record = read_record(record_file)
    known = record["points"] if record.get("made_from") == made_from else []
    figures = {OperatingPoint(**row["point"]): _with_nan(row["figures"]) for row in known}
    wanted = [point for point in points if point not in figures]
    if wanted:
        probability, image = read_probability(prediction)
        mask = read_mask(reference)
        require_same_geometry(image, mask)
        tree_file = record_file.with_suffix(".npz")
        tree = tree_store.stored_tree(tree_file, sitk.GetArrayViewFromImage(mask), made_from["reference"])
        spacing = mask.GetSpacing()[::-1]
        against = Reference.of(tree, spacing)
        for point in wanted:
            found = point.mask(probability, spacing)
            figures[point] = against.figures(largest_component(found, connectivity=26, spacing=spacing))
        rows = [{"point": asdict(point), "figures": values} for point, values in figures.items()]
        write_record(record_file, without_nan({"made_from": made_from, "points": rows}))
    return {point: figures[point] for point in points}


def _with_nan(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in figures.items()}


def _write(tuning: Tuning, output: Path, checkpoints: Mapping[str, str]) -> None:
    head = ["case", *asdict(DEFAULT), *FIGURES.values(), "chosen"]
    rows = []
    for case, figures in {"mean": {p: tuning.means(p) for p in tuning.points}, **tuning.cases}.items():
        for point in tuning.points:
            values = (
                "" if math.isnan(figures[point][name]) else round(figures[point][name], 3) for name in FIGURES.values()
            )
            settings = ("" if value is None else value for value in asdict(point).values())
            rows.append([case, *settings, *values, "yes" if point == tuning.chosen else ""])
    write_csv(output / TABLE, head, rows)
    _draw(output / PICTURE, tuning)
    write_postprocessing_pkl(output / PKL)
    write_operating_point(
        output / FILE,
        tuning.chosen,
        criterion=tuning.criterion,
        cases=list(tuning.cases),
        checkpoints=dict(checkpoints),
        figures=without_nan(tuning.means(tuning.chosen)),
    )


def _draw(target: Path, tuning: Tuning) -> None:
    """Draw length, branches and length below 2 mm over precision: thresholds as lines, post-processings as points."""
    points = tuning.points
    line = [point for point in points if point.is_threshold and point.thin is None]
    two = [point for point in points if point.is_threshold and point.thin is not None]
    others = [point for point in points if not point.is_threshold]
    means = {point: tuning.means(point) for point in points}
    with style.context("default"):
        figure = Figure(figsize=(13, 4.5), layout="constrained")
        for axes, title in zip(figure.subplots(1, 3), ("length %", "branches %", "length %, 0-2 mm"), strict=True):
            name = FIGURES[title]
            for figures in tuning.cases.values():
                axes.plot(*_curve(figures, line, name), color="0.8", linewidth=0.8)
            axes.plot(*_curve(means, line, name), "o-", markersize=4, label="thresholds, largest piece")
            axes.plot(*_curve(means, two, name), "o-", markersize=4, label="and a lower one for thin airways")
            axes.plot(*_curve(means, others, name), "x", markersize=5, label="hysteresis, reconnection")
            for point, style_of, words in (
                (DEFAULT, "ks", "p > 0.5"),
                (tuning.chosen, "r*", f"chosen: {tuning.chosen}"),
            ):
                axes.plot(*_curve(means, [point], name), style_of, markersize=9, label=words, fillstyle="none")
            nothing = all(math.isnan(figures[name]) for figures in means.values())
            axes.set(xlabel="precision %", title=f"{title}: none there" if nothing else title)
            axes.grid(alpha=0.3)
        figure.axes[0].legend(fontsize=8, loc="lower left")
        figure.suptitle(f"Means of {len(tuning.cases)} cases, and each case in grey")
        with atomic_path(target) as temporary:
            figure.savefig(temporary, dpi=110)


def _curve(figures: Mapping[OperatingPoint, Mapping], points: Sequence[OperatingPoint], name: str) -> tuple[list, list]:
    return [figures[p]["precision"] for p in points], [figures[p][name] for p in points]
