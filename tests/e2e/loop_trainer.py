"""`python -m tests.e2e.loop_trainer run ...` is the trainer with the backbone `tiny`, slow enough to be killed anywhere
in a training; it writes a dot for each step into the file $STEPS."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.trainer import shops, tiny_backbones
from trainer import backbones, export, stage
from trainer.__main__ import main

STEP_S = 0.03


def counted(step: Callable[..., dict[str, float]], log: int) -> Callable[..., dict[str, float]]:
    """`trainer.stage.step`, written down before it counts as done."""

    def step_counted(*arguments: Any) -> dict[str, float]:
        losses = step(*arguments)
        os.write(log, b".")
        time.sleep(STEP_S)
        return losses

    return step_counted


if __name__ == "__main__":
    steps = os.open(os.environ["STEPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    backbones.__path__.extend(tiny_backbones.__path__)
    vars(export)["to_onnx"] = shops.quick_onnx
    vars(stage)["step"] = counted(stage.step, steps)
    sys.exit(main())
