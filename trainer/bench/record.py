"""What a stage's training shows, kept in files, so that no interruption loses any of it or counts any of it twice.

    <folder>/steps.jsonl        a line a step
    <folder>/milestones.json    the recalls so far

| crash at this step                | found so at restart                                                          |
|-----------------------------------|------------------------------------------------------------------------------|
| while a line is appended          | a part of a line, which is dropped; its step is done again                   |
| after steps that no checkpoint has | their lines and milestones, which those of the same steps, done again, replace |
| power loss                        | the last lines may be missing; the means are over those that are there       |
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from indexer.files import write_bytes, write_json
from trainer.stage import Progress

STEPS: Final = "steps.jsonl"
MILESTONES: Final = "milestones.json"
LOSSES_EVERY: Final = 10  # steps, of which the mean is kept


class Record:
    """The steps and milestones of one stage, in its folder."""

    def __init__(self, folder: Path) -> None:
        """Takes up what an interrupted training has left there."""
        self._steps_path, self._milestones_path = folder / STEPS, folder / MILESTONES
        self._steps: dict[int, Mapping[str, Any]] = {}
        self._milestones: list[Mapping[str, Any]] = []
        if self._steps_path.exists():
            self._restore_steps()
        if self._milestones_path.exists():
            self._milestones = json.loads(self._milestones_path.read_text(encoding="utf-8"))["milestones"]

    def add(self, progress: Progress, peak_memory_mib: float) -> None:
        """A step's end; what was measured after it, before an interruption, is measured again.

        The line is not forced to the disk: only a power loss loses it.
        """
        line = {
            "step": progress.step,
            "seconds": progress.seconds,
            "losses": dict(progress.losses),
            "peak_memory_mib": peak_memory_mib,
        }
        self._steps[progress.step] = line
        self._milestones = [old for old in self._milestones if old["step"] < progress.step]
        with self._steps_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def milestone(self, step: int, recalls: Mapping[str, Any]) -> None:
        self._milestones.append({"step": step, **recalls})
        write_json(self._milestones_path, {"milestones": self._milestones})

    def has_milestone(self, step: int) -> bool:
        return any(milestone["step"] == step for milestone in self._milestones)

    @property
    def seconds_per_step(self) -> float:
        """The median, since a busy machine says little about the other steps; and without the first, which warms up."""
        seconds: list[float] = [line["seconds"] for _, line in sorted(self._steps.items())]
        return statistics.median(seconds[1:] or seconds or [0.0])

    def summary(self) -> dict[str, Any]:
        """The part of a stage's result that its training shows; `seconds` is of all steps, each counted once."""
        return {
            "seconds": sum(line["seconds"] for line in self._steps.values()),
            "seconds_per_step": self.seconds_per_step,
            "peak_memory_mib": max((line["peak_memory_mib"] for line in self._steps.values()), default=0.0),
            "losses": [
                _mean(dict(group))
                for _, group in itertools.groupby(
                    sorted(self._steps.items()), lambda item: (item[0] - 1) // LOSSES_EVERY
                )
            ],
            "milestones": self._milestones,
        }

    def _restore_steps(self) -> None:
        for text in self._steps_path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                self._steps[line["step"]] = line
        # Without the part of a line that the next one would be appended to.
        write_bytes(self._steps_path, "".join(json.dumps(line) + "\n" for line in self._steps.values()).encode())


def _mean(steps: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each loss over consecutive steps, under the number of the last one."""
    names = next(iter(steps.values()))["losses"]
    return {"step": max(steps)} | {
        name: statistics.fmean(line["losses"][name] for line in steps.values()) for name in names
    }
