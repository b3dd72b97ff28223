"""Training that is slow enough to be met in its middle, also by a test that comes a second late."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

from trainer import stage

STEP_S: Final = "STEP_S"
"""The environment variable with the seconds that a program's steps take longer; without it they are as they are."""


def slow_down() -> None:
    """Makes the steps of this process as slow as its environment says. Once, before training begins."""
    if seconds := float(os.environ.get(STEP_S, 0)):
        vars(stage)["step"] = _slowed(stage.step, seconds)


def _slowed(step: Callable[..., dict[str, float]], seconds: float) -> Callable[..., dict[str, float]]:
    def slow_step(*arguments: Any) -> dict[str, float]:
        losses = step(*arguments)
        time.sleep(seconds)
        return losses

    return slow_step
