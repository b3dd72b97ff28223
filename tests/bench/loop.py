"""What the stored benches say of the loop, as tables: recall by cohort through the real programs, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def recall_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Recall@1 of each cohort's probes through the whole gallery, before and after each swap, as Markdown.

    runs  by name, what `tests.bench.live` stored
    """
    lines = [
        "| photos | stage learned | cohort | probes | before the swap | after it |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, run in runs.items():
        for stage in run["stages"]:
            gates = {gate["name"]: gate for gate in stage["gates"]}
            for cohort in range(stage["stage"] + 1):
                kept, floor = gates[f"cohort {cohort} in the gallery"], gates[f"floor of cohort {cohort}"]
                after = floor["measured"]
                lines.append(
                    f"| {name} | {stage['stage']} | {cohort} | {floor['probes']:,} "
                    f"| {100 * (after - kept['measured']):.1f} % | {100 * after:.1f} % |"
                )
    return "\n".join(lines)


def bench_table(runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]], method: str = "mutual") -> str:
    """Recall@1 of all probes among the probes alone after each stage: through the loop, and by the bench of methods
    with the same photos and numbers of steps, as Markdown.

    runs  by name, what `tests.bench.live` and `trainer bench` stored
    """
    lines = [
        "| photos | stage learned | probes | through the loop | by the bench, its seeds |",
        "|---|---:|---:|---:|---|",
    ]
    for name, (live, bench) in runs.items():
        for stage in live["stages"]:
            number = stage["stage"]
            floors = [gate for gate in stage["gates"] if gate["name"].startswith("floor of cohort")]
            alone = floors[: number + 1]  # the trainer's, which come before the server's
            probes = sum(floor["probes"] for floor in alone)
            found = sum(floor["measured"] * floor["probes"] for floor in alone)
            seeds = [
                run["milestones"][-1]["test"]["all"]["1"]
                for run in bench["runs"]
                if run["stage"] == number and run["method"] == (method if number else "initial")
            ]
            benched = ", ".join(f"{100 * recall:.1f} %" for recall in seeds)
            lines.append(f"| {name} | {number} | {probes:,} | {100 * found / probes:.1f} % | {benched} |")
    return "\n".join(lines)


def cost_table(
    swaps: Mapping[str, Any], calm: Mapping[str, Any], backfill: Mapping[str, Any], watching: Mapping[str, Any]
) -> str:
    """What swaps, backfills and watching cost, each a ratio within one run, as Markdown.

    swaps, calm, backfill, watching  what the benches of these names stored
    """
    full, half = calm["loads"]["full"], calm["loads"]["half"]
    rows = [
        (
            f"p99 of a search in the seconds around {swaps['swaps']} swaps, to the calm ones between them",
            f"{swaps['p99_ratio']:.2f}",
            f"{swaps['around']['p99_ms']:.0f} ms to {swaps['calm']['p99_ms']:.0f} ms, {swaps['callers']} callers,"
            f" {len(swaps['failed'])} failed",
        ),
        (
            f"memory after {swaps['swaps']} swaps, to that after 3",
            f"{swaps['memory_ratio']:.2f}",
            f"{swaps['memory_mib'][-1]:.0f} MiB to {swaps['memory_mib'][2]:.0f} MiB; after any of them"
            f" {min(swaps['memory_mib']):.0f} to {max(swaps['memory_mib']):.0f} MiB",
        ),
        (
            f"p99 with a backfill beside, to that without: {calm['callers']} callers without a pause",
            f"{full['p99_ratio']:.2f}",
            f"{full['with']['p99_ms']:.0f} ms to {full['without']['p99_ms']:.0f} ms",
        ),
        (
            "the same at half of their rate",
            f"{half['p99_ratio']:.2f}",
            f"{half['with']['p99_ms']:.0f} ms to {half['without']['p99_ms']:.0f} ms",
        ),
        (
            "photos a second of a backfill alone, to the bare encoder with decoding on the same cores",
            f"{backfill['ratio']:.2f}",
            f"{backfill['photos']:,} photos",
        ),
        _watching_row("searches a second with all watching on, to that with all off", watching, "full", "per_s"),
        _watching_row("the server's processor time for each of them", watching, "full", "processor_ms"),
        _watching_row("p99 with all watching on, to that with all off: 16 callers", watching, "full", "p99_ms"),
        _watching_row("the same at half of their rate", watching, "half", "p99_ms"),
    ]
    return "\n".join(["| | ratio | |", "|---|---:|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def _watching_row(words: str, watching: Mapping[str, Any], load: str, figure: str) -> tuple[str, str, str]:
    found = watching["loads"][load][f"{figure}_ratio"]
    bounds = f"95 % interval {found['low']:.2f} to {found['high']:.2f}, {watching['rounds']} rounds"
    return words, f"{found['ratio']:.2f}", bounds
