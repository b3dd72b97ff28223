"""`python -m tests.trainer.tiny_bench` is `python -m trainer` with the backbone `tiny`, checkpoints at every turn, and
steps as slow as `slow_steps` says.

The bench's own processes import the program that was started, so they have all of it too.
"""

from __future__ import annotations

import sys

from tests.trainer import slow_steps, tiny_backbones
from trainer import backbones, stage
from trainer.__main__ import main

backbones.__path__.extend(tiny_backbones.__path__)
stage.train.__kwdefaults__ = {**(stage.train.__kwdefaults__ or {}), "checkpoint_s": 0.2}
slow_steps.slow_down()

if __name__ == "__main__":
    sys.exit(main())
