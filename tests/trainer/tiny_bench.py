"""`python -m tests.trainer.tiny_bench` is `python -m trainer` with the backbone `tiny` and checkpoints at every turn.

The bench's own processes import the program that was started, so they have both too.
"""

from __future__ import annotations

import sys

from tests.trainer import tiny_backbones
from trainer import backbones, stage
from trainer.__main__ import main

backbones.__path__.extend(tiny_backbones.__path__)
stage.train.__kwdefaults__ = {**(stage.train.__kwdefaults__ or {}), "checkpoint_s": 0.2}

if __name__ == "__main__":
    sys.exit(main())
