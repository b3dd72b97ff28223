"""A bench's results as pictures, for a README. Colours are such as the colour-blind can tell apart."""

from __future__ import annotations

import io
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from indexer.files import write_bytes
from trainer.bench.summary import Bench, Spread, forgetting, matrix_of, plasticity

# Okabe and Ito, Color Universal Design (2008), less the yellow, which is hard to see on white.
_COLOURS: Final = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
_MARKERS: Final = "osD^vP"
_DPI: Final = 130


@dataclass(frozen=True)
class Style:
    colour: str
    marker: str


def plots(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes the PNG files, each in one step, and returns their paths. There is none of what nothing is finished of.

    Where there are several backbones, each has its own, with its name in the file's.
    """
    benches = Bench.all_of(results)
    paths = []
    for bench in benches:
        for name, figure in _figures(bench, results).items():
            paths.append(folder / (f"{name}-{bench.backbone}.png" if len(benches) > 1 else f"{name}.png"))
            write_bytes(paths[-1], _png(figure))
    return paths


def styles_of(methods: Sequence[str]) -> dict[str, Style]:
    """A method's look in every plot, by its place in the configuration. No two of 42 are alike."""
    looks = zip(itertools.cycle(_COLOURS), itertools.cycle(_MARKERS), strict=False)
    return {method: Style(*look) for method, look in zip(methods, looks, strict=False)}


def _png(figure: Figure) -> bytes:
    """With a palette of 256 colours, which makes it a third as large; a repository keeps every version of it."""
    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(dither=Image.Dither.NONE).save(content, "png", optimize=True)
    return content.getvalue()


def _figures(bench: Bench, results: Mapping[str, Any]) -> dict[str, Figure]:
    styles = styles_of(bench.methods)
    figures = {}
    if bench.seeds():
        figures["recall-by-stage"] = _recall_by_stage(bench, styles)
        figures["forgetting-plasticity"] = _forgetting_plasticity(bench, styles)
    seed, last = bench.planned[0], len(bench.sizes) - 1
    losses = {
        run["method"]: run["losses"]
        for run in results["runs"]
        if (run["backbone"], run["seed"], run["stage"]) == (bench.backbone, seed, last) and run["losses"]
    }
    if losses:
        figures["training"] = _training(losses, styles, f"seed {seed}, stage {last}")
    return figures


def _recall_by_stage(bench: Bench, styles: Mapping[str, Style]) -> Figure:
    figure, axes = _panels(3, "after stage", share_y=True)
    axes[0].set_ylabel("Recall@1 (%)")
    seeds, last = bench.seeds(), len(bench.sizes) - 1
    for panel, among in zip(axes, ("old", "new", "all"), strict=True):
        panel.set_title(f"{among} categories", fontsize="medium")
        stages = range(among == "old", last + 1)
        panel.set_xticks(stages)
        panel.set_xlim(stages[0] - 0.25, last + 0.25)
        for position, method in enumerate(bench.chains):
            after = [bench.recalls(method, seed) for seed in seeds]
            spreads = [Spread.of([100 * recalls[stage][among]["1"] for recalls in after]) for stage in stages]
            # A single stage has no line to tell the methods apart by: they stand side by side.
            aside = (position + 0.5) / len(bench.chains) - 0.5 if len(stages) == 1 else 0
            _line(panel, [stage + 0.4 * aside for stage in stages], spreads, method, styles[method])
    _legend(figure, axes)
    return figure


def _line(axes: Axes, x: Sequence[float], spreads: Sequence[Spread], method: str, style: Style) -> None:
    means = [spread.mean for spread in spreads]
    axes.plot(x, means, color=style.colour, marker=style.marker, markersize=4.5, linewidth=1.5, label=method)
    half = [spread.deviation or 0.0 for spread in spreads]
    low, high = ([mean + sign * h for mean, h in zip(means, half, strict=True)] for sign in (-1, 1))
    if len(x) > 1:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)
    else:
        axes.errorbar(x, means, half, color=style.colour, capsize=3)


def _forgetting_plasticity(bench: Bench, styles: Mapping[str, Style]) -> Figure:
    figure = Figure(figsize=(7.5, 4), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("forgetting (points of Recall@1; less is better)")
    axes.set_ylabel("plasticity (Recall@1, %; more is better)")
    _grid(axes)
    points = []
    for method in bench.chains:
        matrices = [matrix_of(bench.recalls(method, seed)) for seed in bench.seeds()]
        x, y = (Spread.of([100 * measure(matrix) for matrix in matrices]) for measure in (forgetting, plasticity))
        colour, marker = styles[method].colour, styles[method].marker
        (point,) = axes.plot(x.mean, y.mean, color=colour, marker=marker, markersize=7, linestyle="none", label=method)
        axes.errorbar(x.mean, y.mean, y.deviation, x.deviation, color=colour, elinewidth=1.2, capsize=2.5)
        points.append((y.mean, point))
    # Names in the order of their points, beside the plot: points may lie so close that no name fits between them.
    handles = [point for _, point in sorted(points, key=lambda found: found[0], reverse=True)]
    figure.legend(handles=handles, loc="outside right upper", fontsize="small", frameon=False)
    return figure


def _training(losses: Mapping[str, Sequence[Mapping[str, float]]], styles: Mapping[str, Style], title: str) -> Figure:
    """A panel for each term of the losses, which have their own scales."""
    terms = list(dict.fromkeys(term for entries in losses.values() for entry in entries for term in entry))
    terms.remove("step")
    figure, axes = _panels(len(terms), "step", share_y=False)
    for panel, term in zip(axes, terms, strict=True):
        panel.set_title(f"{term} loss", fontsize="medium")
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for method in (method for method in styles if method in losses):
            points = thinned([(entry["step"], entry[term]) for entry in losses[method] if term in entry])
            if points:
                panel.plot(*zip(*points, strict=True), color=styles[method].colour, linewidth=1.3, label=method)
    axes[0].set_ylabel(f"weighted loss ({title})")
    _legend(figure, axes)
    return figure


def thinned(points: Sequence[tuple[float, float]], at_most: int = 50) -> list[tuple[float, float]]:
    """Means of so many consecutive points that `at_most` are left, of which a line's course can be seen."""
    count = math.ceil(len(points) / at_most)
    groups = [points[i : i + count] for i in range(0, len(points), count or 1)]
    return [(statistics.fmean(x for x, _ in group), statistics.fmean(y for _, y in group)) for group in groups]


def _panels(count: int, x_label: str, *, share_y: bool) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(max(3.2 * count, 5), 3.8), dpi=_DPI, layout="constrained")
    axes = list(figure.subplots(1, count, sharey=share_y, squeeze=False)[0])
    for panel in axes:
        panel.set_xlabel(x_label)
        _grid(panel)
    return figure, axes


def _grid(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Below the panels, where it hides no data: each method once."""
    handles = {
        label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    columns = max(1, round(figure.get_figwidth() // 2.6))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize="small", frameon=False
    )
