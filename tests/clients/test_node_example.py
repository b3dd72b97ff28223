"""The example in Node, against a server; and the protocol through buf, which comes with it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import photo
from tests.clients.fake_server import FakeServer
from tests.conftest import CACHE, ROOT

EXAMPLE = ROOT / "examples" / "node"
# Of a registry that npm does not reach, that is too busy to answer, or whose answer breaks off.
NO_REGISTRY = re.compile(
    r"^npm (?:error|ERR!) .*\b(ENOTFOUND|EAI_AGAIN|ECONN\w+|EPIPE|ENET\w+|EHOST\w+|ETIMEDOUT|\w+TIMEOUT|E429|E5\d\d)\b",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/node and proto with the locked packages, which are kept in .cache until the lock changes."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("no Node with npm on this machine")
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "proto", copy / "proto")
    shutil.copytree(EXAMPLE, copy / "examples" / "node", ignore=shutil.ignore_patterns("node_modules"))
    (copy / "examples" / "node" / "node_modules").symlink_to(_packages())
    return copy / "examples" / "node"


def _packages() -> Path:
    """Their folder. Runs at the same time wait for one another."""
    CACHE.mkdir(exist_ok=True)
    kept = CACHE / f"node-{hashlib.sha256((EXAMPLE / 'package-lock.json').read_bytes()).hexdigest()[:16]}"
    with (CACHE / "node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / "complete").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(EXAMPLE / name, kept)
            try:
                done = subprocess.run(
                    ["npm", "ci", "--ignore-scripts"], cwd=kept, capture_output=True, text=True, timeout=240
                )
            except subprocess.TimeoutExpired as late:
                pytest.skip(f"npm has no packages from its registry in {late.timeout:.0f} s")
            if done.returncode and (failed := NO_REGISTRY.search(done.stderr)):
                pytest.skip(f"npm reaches no registry: {failed[1]}")
            assert done.returncode == 0, done.stderr
            (kept / "complete").touch()
    return kept / "node_modules"


def _search(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", "search.js", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_an_app_in_node_puts_searches_and_reads_errors(installed: Path, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "apple.jpg").write_bytes(photo("red"))
    done = _search(installed, server.target, str(tmp_path / "apple.jpg"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "put node-example/apple.jpg: PUT_OUTCOME_CREATED, change 1",
        "generation 1 found:",
        "  1.0000  node-example  node-example/apple.jpg",
        "refused, as it should be: INVALID_ARGUMENT IMAGE_UNREADABLE, field image: the photo cannot be read",
    ]
    stored = server.items["node-example/apple.jpg"].item
    assert stored.metadata["bytes"].number == len(photo("red"))


def test_the_node_example_fails_with_one_line(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "apple.jpg").write_bytes(photo("red"))
    done = _search(installed, "127.0.0.1:1", str(tmp_path / "apple.jpg"))
    assert done.returncode == 1
    assert done.stderr.startswith("UNAVAILABLE: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_node_example_says_its_usage(installed: Path) -> None:
    assert _search(installed).returncode == 2


def test_the_protocol_keeps_to_bufs_rules(installed: Path) -> None:
    buf = installed / "node_modules" / ".bin" / "buf"
    done = subprocess.run(
        [buf, "lint", installed.parent.parent / "proto"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_packages_are_pinned_exactly_and_the_lock_names_no_registry() -> None:
    package = json.loads((EXAMPLE / "package.json").read_text())
    for versions in (package["dependencies"], package["devDependencies"]):
        assert all(version[0].isdigit() for version in versions.values())
    lock = json.loads((EXAMPLE / "package-lock.json").read_text())
    assert not [name for name, locked in lock["packages"].items() if "resolved" in locked]
    assert all("integrity" in locked for name, locked in lock["packages"].items() if name)
