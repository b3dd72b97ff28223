"""`python -m tests.trainer.tiny_program` is `python -m trainer` with the backbone `tiny`, exported in milliseconds, and
with steps as slow as `slow_steps` says."""

from __future__ import annotations

import sys

from tests.trainer import shops, slow_steps, tiny_backbones
from trainer import backbones, export
from trainer.__main__ import main

if __name__ == "__main__":
    backbones.__path__.extend(tiny_backbones.__path__)
    vars(export)["to_onnx"] = shops.quick_onnx
    slow_steps.slow_down()
    sys.exit(main())
