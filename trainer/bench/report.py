"""A bench's results as a page: tables in the layout of mutual's Tables 2 and 3, paired differences, and the cost.

`mutual` is Online Deep Metric Learning via Mutual Distillation. Whatever is compared in a row or a table comes from the
same seeds; the spread is the sample standard deviation over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from indexer.files import write_bytes
from trainer.bench.plots import plots
from trainer.bench.summary import FORGETTING, KS, Bench, Spread

PAGE: Final = "results.md"
REFERENCES: Final = ("finetune", "fecd")
_BASELINE: Final = REFERENCES[0]  # whose step the others' cost is measured by
_NONE: Final = "–"


def write(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes results.md and the plots that it shows into `folder`; each file is replaced in one step.

    Errors: InvalidField when `results` are of another format, before anything is written.
    """
    text, page = markdown(results), folder / PAGE
    folder.mkdir(parents=True, exist_ok=True)
    images = plots(results, folder)
    shown = [f"![{path.stem.replace('-', ' ')}]({path.name})\n" for path in images]
    write_bytes(page, "\n".join([text, *shown]).encode())
    return [page, *images]


def markdown(results: Mapping[str, Any]) -> str:
    """The page without its plots. Errors: InvalidField when `results` are of another format."""
    benches = Bench.all_of(results)
    parts = [_heading(results)]
    if any(bench.seeds() for bench in benches):
        parts.append(_reading(benches))
    for bench in benches:
        parts += [f"## {bench.backbone}", _missing(bench)]
        if bench.seeds():
            ways = [False, True] if bench.has_choice else [False]
            parts += [_recall(bench, best=best) for best in ways]
            parts += [_at_k(bench)]
            parts += [_against(bench, name, best=best) for name in REFERENCES if name in bench.chains for best in ways]
            parts += [_cost(bench)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _heading(results: Mapping[str, Any]) -> str:
    config, machine = results["config"], dict(results["machine"])
    protocol, first, later = config["protocol"], config["first"], config["later"]
    packages = machine.pop("packages", {})
    sizes = protocol["sizes"]
    kind = "one-task" if len(sizes) == 2 else "multi-task"
    backbones = ", ".join(config["backbones"])
    said = [
        f"{first['steps']} steps for the first stage and {later['steps']} for each later one",
        f"batches of {later['p']} x {later['k']} photos",
        f"learning rate {later['learning_rate']:g}",
        f"seeds {_listed(config['seeds'])}",
        f"photos `{config['photos_digest'][:12]}`",
        f"protocol `{protocol['digest'][:12]}`, categories by {protocol['order']}",
    ]
    on = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in {**machine, **packages}.items())
    title = f"# {kind}, {' + '.join(map(str, sizes))} categories: {backbones} at {config['image_size']} px"
    return f"{title}\n\n{'; '.join(said)}.\n\nMachine: {on}."


def _missing(bench: Bench) -> str:
    """What is not finished, and so which seeds the tables are over; nothing where all is."""
    planned = len(bench.planned)
    counts = {method: len(bench.chains.get(method, ())) for method in bench.methods}
    short = [f"{method} ({done} of {planned} seeds)" for method, done in counts.items() if done < planned]
    if not short:
        return ""
    seeds = bench.seeds()
    text = f"**Not finished: {', '.join(short)}.**"
    if not seeds:
        return f"{text} No seed can be compared."
    return (
        f"{text} A table is over the seeds that all methods in it have finished, {len(seeds)} of {planned} "
        f"({_listed(seeds)}); a paired comparison is over those of its pair."
    )


def _reading(benches: Sequence[Bench]) -> str:
    """How to read the tables; what none of them has is left out."""
    items = [
        "Recall is in percent, on the test photos. Each group of categories is searched within itself: a photo among "
        "all others of the group. Figures are means over the seeds, ± their sample standard deviation."
    ]
    if FORGETTING in benches[0].columns:
        items.append(
            "Forgetting, in points, is a stage's recall right after it was learned less the same after the last stage, "
            "the mean over all stages before the last. Plasticity is a stage's recall right after it was learned, the "
            "mean over all stages after the first."
        )
    if any(bench.has_choice for bench in benches):
        items.append(
            "The best number of steps is the last stage's; it has the highest mean Recall@1 of all categories on "
            "validation photos, which are held out of the training photos."
        )
    items.append(
        "A comparison is paired: the mean over seeds of a method's figure less the reference's with the same seed, ± "
        "the sample standard deviation of that difference; in brackets, in how many of the seeds the method is better."
    )
    return "\n".join(f"- {item}" for item in items)


def _recall(bench: Bench, *, best: bool) -> str:
    rows = []
    for method in bench.chains:
        values = [bench.values(method, seed, best=best) for seed in bench.seeds()]
        steps = [str(bench.steps(method, best=best))] if best else []
        rows.append([method, *steps, *(_cell([row[column] for row in values]) for column in bench.columns)])
    head = ["method", *(["steps"] if best else []), *bench.columns]
    return _section(f"Recall@1, {_way(best)}", head, rows)


def _at_k(bench: Bench) -> str:
    rows = []
    for among in ("all", "old", "new"):
        for method in bench.chains:
            last = [bench.recalls(method, seed)[-1][among] for seed in bench.seeds()]
            rows.append([f"{method}, {among}", *(_cell([100 * row[k] for row in last]) for k in KS)])
    return _section("Recall@K after the last stage, at equal steps", ["method", *(f"Recall@{k}" for k in KS)], rows)


def _against(bench: Bench, reference: str, *, best: bool) -> str:
    rows = []
    for method in bench.chains:
        seeds = bench.seeds(method, reference)
        if method != reference and seeds:
            mine, its = ([bench.values(name, seed, best=best) for seed in seeds] for name in (method, reference))
            rows.append([method, *(_paired(column, mine, its) for column in bench.columns)])
    return _section(f"Against {reference}, {_way(best)}", ["method", *bench.columns], rows) if rows else ""


def _paired(column: str, mine: Sequence[Mapping[str, float]], its: Sequence[Mapping[str, float]]) -> str:
    differences = [a[column] - b[column] for a, b in zip(mine, its, strict=True)]
    better = sum(value < 0 if column == FORGETTING else value > 0 for value in differences)
    return f"{_cell(differences, sign='+')} ({better} of {len(differences)})"


def _cost(bench: Bench) -> str:
    """Of the stages after the first. A method that takes no step has no time."""
    seeds = bench.seeds()
    runs = {method: [run for seed in seeds for run in chains[seed][1:]] for method, chains in bench.chains.items()}
    seconds = {m: [run["seconds_per_step"] for run in of_method if run["steps"]] for m, of_method in runs.items()}
    means = {method: fmean(each) for method, each in seconds.items() if each}
    rows = [
        [
            method,
            f"{means[method]:.3g}" if method in means else _NONE,
            f"{means[method] / means[_BASELINE]:.2f}" if {method, _BASELINE} <= means.keys() else _NONE,
            f"{max(run['peak_memory_mib'] for run in of_method):,.0f}",
            f"{of_method[-1]['memory_bytes'] / sum(bench.sizes):,.0f}",
        ]
        for method, of_method in runs.items()
    ]
    head = ["method", "seconds a step", f"times {_BASELINE}'s", "peak memory, MiB", "bytes kept a category"]
    return _section("Cost of a stage after the first", head, rows)


def _way(best: bool) -> str:
    return (
        "each method at its own best number of steps (chosen on held-out training photos)" if best else "at equal steps"
    )


def _cell(values: Sequence[float], sign: str = "") -> str:
    spread = Spread.of(values)
    mean = f"{spread.mean:{sign}.2f}"
    return mean if spread.deviation is None else f"{mean} ± {spread.deviation:.2f}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table under its title; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
