"""How cost grows: with the patch, with the volume, and with the number of branches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from measure import peak_memory, seconds
from networks import airway_network, autocast, stock_network, training_step
from plain_wingsnet import PlainWingsNet
from scipy import ndimage
from tqdm import tqdm
from volumes import a_prediction_of

from nnunetv2_airway.architectures.airway_network import cpu_has_bfloat16
from nnunetv2_airway.architectures.wingsnet import WingsNet
from nnunetv2_airway.evaluation.metrics import evaluate_case
from nnunetv2_airway.inference.postprocessing import keep_airway_tree
from nnunetv2_airway.io.files import atomic_path
from nnunetv2_airway.training.maps.kinds import MAPS
from nnunetv2_airway.tree.parse import parse_tree

PATCHES = (32, 48, 64, 96, 128, 160)
STOCK_PATCHES = (64, 96, 128, 160)
"""What nnU-Net's network can halve five times, and then still normalise."""
SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def draw(target: Path, mask: np.ndarray, spacing: tuple[float, float, float], device: str) -> None:
    """Measure and draw all plots.

    Args:
        target: PNG file.
        mask: an airway mask (Z, Y, X).
        spacing: (z, y, x) in mm.
        device: of the network.
    """
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for each, panel in zip(axes, _panels(mask > 0, spacing, device), strict=True):
        _plot(each, *panel)
        with atomic_path(target) as temporary:
            figure.savefig(temporary, dpi=110)


def _panels(mask: np.ndarray, spacing: tuple[float, float, float], device: str) -> Iterator[tuple]:
    time, memory = over_patches(device)
    yield "training step of one patch", "edge in voxels", "s", time
    yield "its memory", "edge in voxels", "GiB", memory
    yield "prediction of one patch", "edge in voxels", "s", list(_predictions(device))
    by_volume, transform = over_volumes(mask, spacing)
    yield "one case, by its volume", "million voxels", "s", [*by_volume, transform]
    yield "the same without the transform", "million voxels", "s", by_volume
    yield "one case, by its branches", "branches", "s", over_branches(mask, spacing)


def over_patches(device: str) -> tuple[list[Curve], list[Curve]]:
    """Time and memory of a training step over the edge of the patch."""
    low = "float16" if device == "cuda" else "bfloat16"
    variants = [("WingsNet", WingsNet, "float32"), ("plain WingsNet", PlainWingsNet, "float32")]
    if device == "cuda" or cpu_has_bfloat16():
        variants.insert(0, ("WingsNet", WingsNet, low))
    time, memory = [], []
    for label, network, precision in variants:
        steps = [(network, (1, 2, *(size,) * 3), precision, device) for size in PATCHES]
        for curves, values in (
            (time, [best(seconds(training_step(*step), device)) for step in tqdm(steps, desc=f"{label}, {precision}")]),
            (memory, [peak_memory(training_step, *step, device=device)() for step in tqdm(steps, desc="memory")]),
        ):
            curves.append(Curve(f"{label}, {precision}", PATCHES, values))
    return time, memory


def _predictions(device: str) -> Iterator[Curve]:
    stock = "nnU-Net's PlainConvUNet", stock_network()
    if device == "cuda":
        rows = [("WingsNet", airway_network("float32"), "float16", PATCHES), (*stock, "float16", STOCK_PATCHES)]
    else:
        precisions = ("bfloat16", "float32")[not cpu_has_bfloat16() :]
        rows = [("WingsNet", airway_network(precision), precision, PATCHES) for precision in precisions]
        rows.append((*stock, "float32", STOCK_PATCHES))
    for label, network, precision, sizes in rows:
        network.to(device).eval()
        values = []
        for size in tqdm(sizes, desc=f"{label}, {precision}"):
            x = torch.zeros((1, 1, *(size,) * 3), device=device)
            # on a CPU our network sees to its precision itself
            with torch.no_grad(), autocast(precision if device == "cuda" else "float32", device):
                values.append(best(seconds(partial(network, x), device)))
        yield Curve(f"{label}, {precision}", sizes, values)


def over_volumes(mask: np.ndarray, spacing: tuple[float, float, float]) -> tuple[list[Curve], Curve]:
    """Time of what is done to a case over the voxels of its volume: the tree scaled; and that of one transform."""
    work = {
        "centerline maps": lambda m, s: MAPS["centerline"].compute(m, s),
        "evaluation": lambda m, s: evaluate_case(a_prediction_of(m), m, s),
        "post-processing": lambda m, s: keep_airway_tree(m.view(np.uint8)),
        "distance transform of the volume": lambda m, s: ndimage.distance_transform_edt(~m, sampling=s),
    }
    voxels, found = [], {name: [] for name in work}
    for share in tqdm(SHARES, desc="volumes"):
        scaled = ndimage.zoom(mask.astype(np.uint8), share, order=0) > 0
        voxels.append(scaled.size / 1e6)
        coarser = np.array(spacing) / share
        for name, function in work.items():
            found[name].append(best(seconds(partial(function, scaled, coarser))))
    *ours, transform = (Curve(name, voxels, values) for name, values in found.items())
    return ours, transform


def over_branches(mask: np.ndarray, spacing: tuple[float, float, float]) -> list[Curve]:
    """Time over the number of branches, in one volume: the tree without its last generations."""
    tree = parse_tree(mask)
    labels = tree.labels
    numbers, maps, evaluation = [], [], []
    for last in tqdm(range(1, int(tree.generations.max()) + 1), desc="branches"):
        part = np.isin(labels, np.nonzero(tree.generations <= last)[0] + 1)
        numbers.append(parse_tree(part).num_branches)
        maps.append(best(seconds(partial(MAPS["centerline"].compute, part, spacing))))
        prediction = a_prediction_of(part)
        evaluation.append(best(seconds(partial(evaluate_case, prediction, part, spacing))))
    order = np.argsort(numbers)
    return [
        Curve(name, np.array(numbers)[order].tolist(), np.array(values)[order].tolist())
        for name, values in (("centerline maps", maps), ("evaluation", evaluation))
    ]


def best(timed: Callable[[], float], times: int = 2) -> float:
    """Take the shortest of some measurements: what the work itself takes."""
    return min(timed() for _ in range(times))


def _plot(axes, title: str, xlabel: str, ylabel: str, curves: Sequence[Curve]) -> None:
    for curve in curves:
        axes.plot(curve.x, curve.y, marker="o", markersize=3, label=curve.label)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
