"""What is published is whole (promise 9): the primitives that every module that writes files stands on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.files import STAGING, publish_folder, sweep, write_json


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "final"

    def fail_halfway() -> None:
        with publish_folder(final) as staging:
            (staging / "one").write_text("1")
            assert not final.exists()
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []
    with publish_folder(final) as staging:
        (staging / "one").write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (final / "one").read_text() == "1"


def test_what_is_published_is_never_replaced(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with publish_folder(final) as staging:
        (staging / "one").write_text("1")
    with pytest.raises(FileExistsError), publish_folder(final):
        pytest.fail("nothing is to be written")
    assert (final / "one").read_text() == "1"


def test_a_folder_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    final = tmp_path / "final"

    def publish_late() -> None:
        with publish_folder(final) as staging:
            (staging / "late").write_text("late")
            final.mkdir()
            (final / "first").write_text("first")

    with pytest.raises(OSError, match="not empty"):
        publish_late()
    assert [path.name for path in final.iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("step", ["writing", "before the rename"])
def test_a_process_killed_while_it_publishes_leaves_only_what_sweep_removes(tmp_path: Path, step: str) -> None:
    program = f"""
import os, signal
from pathlib import Path
from indexer import files
if {step!r} == "before the rename":
    files.os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with files.publish_folder(Path({str(tmp_path / "final")!r})) as staging:
    (staging / "one").write_text("1")
    if {step!r} == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(STAGING)
    assert sweep(tmp_path) == [left]
    assert list(tmp_path.iterdir()) == []


def test_a_json_file_is_replaced_in_one_step_and_readable_by_every_user(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    write_json(path, {"number": 1})
    with pytest.raises(TypeError):
        write_json(path, {"number": object()})
    assert json.loads(path.read_text()) == {"number": 1}
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["live.json"]
