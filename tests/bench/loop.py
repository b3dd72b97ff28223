"""What the stored benches say of the loop, as tables: recall by cohort through the real programs, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def recall_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Recall@1 of each cohort's probes through the whole gallery, before and after each swap, as Markdown.

    runs  by name, what `tests.bench.live` stored
    """
    lines = [
        "| photos | stage learned | cohort | probes | before the swap | after it | live after |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, run in runs.items():
        for stage in run["stages"]:
            gates = {gate["name"]: gate for gate in stage["gates"]}
            for cohort in range(stage["stage"] + 1):
                kept, floor = gates[f"cohort {cohort} in the gallery"], gates[f"floor of cohort {cohort}"]
                after = floor["measured"]
                lines.append(
                    f"| {name} | {stage['stage']} | {cohort} | {floor['probes']:,} "
                    f"| {100 * (after - kept['measured']):.1f} % | {100 * after:.1f} % | {stage['seconds']:.0f} s |"
                )
    return "\n".join(lines)


def cost_table(swaps: Mapping[str, Any], calm: Mapping[str, Any], backfill: Mapping[str, Any]) -> str:
    """What swaps and backfills cost, each a ratio within one run, as Markdown.

    swaps, calm, backfill  what the benches of these names stored
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
            f"{swaps['memory_mib'][-1]:.0f} MiB to {swaps['memory_mib'][2]:.0f} MiB",
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
    ]
    return "\n".join(["| | ratio | |", "|---|---:|---|", *(f"| {' | '.join(row)} |" for row in rows)])
