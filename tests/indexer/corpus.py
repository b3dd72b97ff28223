"""Photos that none of us made: the test images in Pillow's source distribution, fetched once into .cache."""

from __future__ import annotations

import fcntl
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache"


def pillow_test_images() -> Path:
    """The folder `Tests/images` of the Pillow that is installed. Skips the test where pip cannot get it."""
    version = importlib.metadata.version("pillow")
    CACHE.mkdir(exist_ok=True)
    kept = CACHE / f"pillow-{version}-images"
    with (CACHE / "pillow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            staging = CACHE / f".staging-{kept.name}"
            shutil.rmtree(staging, ignore_errors=True)
            _download(version, staging)
            (staging / f"pillow-{version}" / "Tests" / "images").rename(kept)
            shutil.rmtree(staging)
    return kept


def _download(version: str, folder: Path) -> None:
    """Unpacks the images of the source distribution; pip prepares its metadata and builds nothing."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "pillow", f"pillow=={version}"]
    done = subprocess.run(
        [*command, "--dest", str(folder), "--quiet"], capture_output=True, text=True, check=False, timeout=240
    )
    if done.returncode:
        pytest.skip(f"pip cannot get pillow's source distribution: {done.stderr.strip()[-300:]}")
    with tarfile.open(folder / f"pillow-{version}.tar.gz") as archive:
        prefix = f"pillow-{version}/Tests/images/"
        members = [member for member in archive.getmembers() if member.name.startswith(prefix)]
        archive.extractall(folder, members, filter="data")
