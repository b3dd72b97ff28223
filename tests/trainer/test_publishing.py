"""One process at a time publishes models."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from trainer.publishing import publishing


def test_what_killed_ones_left_is_gone_and_nothing_else(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / ".staging-model-x").mkdir(parents=True)
    (models / "0123456789abcdef").mkdir()
    with publishing(models):
        assert os.listdir(models) == ["0123456789abcdef"]


def test_another_waits_and_what_is_being_written_stays(tmp_path: Path) -> None:
    swept = threading.Event()

    def other() -> None:
        with publishing(tmp_path):
            swept.set()

    thread = threading.Thread(target=other)
    with publishing(tmp_path):
        (tmp_path / ".staging-model-x").mkdir()
        thread.start()
        assert not swept.wait(0.2)
        assert (tmp_path / ".staging-model-x").exists()
        (tmp_path / ".staging-model-x").rmdir()
    assert swept.wait(20)
    thread.join()
