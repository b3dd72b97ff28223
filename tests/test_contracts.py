"""Who may import whom: the contracts of pyproject.toml, and what the programs really load."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """Runs the contracts of `tree`; its packages are found there, and not in the installation."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    env = {"PYTHONPATH": f"{tree}:{tree / 'proto'}", "COLUMNS": "200", "PATH": ""}
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def copy_of_tree(tmp_path: Path) -> Path:
    for name in ("indexer", "server", "trainer", "clients", "proto"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        pytest.param("indexer/files.py", "import grpc", "the engine is a library", id="engine-imports-grpc"),
        pytest.param("indexer/files.py", "import server", "stand over indexer", id="engine-imports-server"),
        pytest.param("server/settings.py", "import torch", "an image without torch", id="server-imports-torch"),
        pytest.param("server/settings.py", "import trainer", "never import each other", id="server-imports-trainer"),
        pytest.param("trainer/__init__.py", "import clients", "never import each other", id="trainer-imports-clients"),
        pytest.param("clients/errors.py", "import indexer", "installs no engine", id="client-imports-engine"),
        pytest.param("clients/errors.py", "import faiss", "installs no engine", id="client-imports-faiss"),
    ],
)
def test_a_forbidden_import_breaks_a_contract(copy_of_tree: Path, module: str, line: str, contract: str) -> None:
    with (copy_of_tree / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(copy_of_tree)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [text for text in done.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(contract in text for text in broken), done.stdout


TEACHER = {"torch", "torchvision", "onnx", "onnxscript", "trainer"}
ENGINE = {"indexer", "faiss", "onnxruntime", "sqlalchemy", "prometheus_client", "pydantic"}


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        pytest.param("server", TEACHER, id="promise-12-server-loads-no-torch"),
        pytest.param("indexer", TEACHER, id="promise-12-engine-loads-no-torch"),
        pytest.param("clients", TEACHER | ENGINE, id="client-loads-no-engine"),
    ],
)
def test_what_a_program_loads_is_its_own(package: str, unwanted: set[str]) -> None:
    """Every module of the package is imported, as a late call might; what others pull in counts too."""
    program = f"""
import importlib, pkgutil, sys, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    importlib.import_module(module.name)
loaded = sorted({unwanted!r} & set(sys.modules))
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
