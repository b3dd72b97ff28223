"""A wheel, an editable install and a bare checkout give the same packages, also beside PyPI's proto-plus."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PACKAGES = ["everlook", "indexer", "server", "trainer", "clients"]
MODULES = ["everlook.v1.everlook_pb2", "everlook.v1.everlook_pb2_grpc", *PACKAGES]
PYTHON = Path("bin/python")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Runs a command outside of the checkout and its settings, and returns what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | environment
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as a release would be."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A new environment that borrows its dependencies from this one, and has a package named `proto`, as proto-plus is.

    The folder that is lent is on its path after its own packages; the .pth files in it are not read, so the project's
    own installation there is not seen.
    """
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "proto").mkdir()
    (packages / "proto/__init__.py").write_text("class Message: ...\n")
    return folder


def install(environment: Path, *arguments: str | Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        environment / PYTHON,
        "install",
        "--quiet",
        "--no-index",
    ]
    run(*command, "--no-deps", "--no-build-isolation", *arguments, cwd=environment)


def origins(environment: Path, **variables: str) -> dict[str, Path]:
    """Where each module is found, after `proto` was imported as proto-plus."""
    program = f"""
import importlib, proto
assert proto.Message
for name in {MODULES!r}:
    print(importlib.import_module(name).__file__)
"""
    lines = run(environment / PYTHON, "-c", program, cwd=environment, **variables).splitlines()
    return dict(zip(MODULES, map(Path, lines), strict=True))


def test_a_wheel_gives_every_package(wheel: Path, environment: Path) -> None:
    install(environment, wheel)
    found = origins(environment)
    assert all(path.is_relative_to(environment) for path in found.values()), found


def test_an_editable_install_gives_every_package(environment: Path) -> None:
    install(environment, "--editable", ROOT)
    found = origins(environment)
    assert all(path.is_relative_to(ROOT) for path in found.values()), found


def test_a_bare_checkout_gives_every_package(environment: Path) -> None:
    found = origins(environment, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'proto'}")
    assert all(path.is_relative_to(ROOT) for path in found.values()), found


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert tops - info == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} | {"everlook/v1/everlook.proto"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    kinds = {Path(name).suffix for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert kinds <= {".py", ".pyi", ".typed", ".proto", ".html", ".css"}, "photos, weights or data in the wheel"


def _closure(extras: set[str]) -> set[str]:
    """Names of all distributions that this project and its extras need here, from what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(r) for r in project["dependencies"]]
    waiting += [Requirement(r) for extra in extras for r in project["optional-dependencies"][extra]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            needed = map(Requirement, importlib.metadata.requires(requirement.name) or ())
            among = [{"extra": extra} for extra in requirement.extras or {""}]
            waiting += [n for n in needed if n.marker is None or any(n.marker.evaluate(e) for e in among)]
    return {name for name, _ in seen}


def test_every_package_of_an_installation_is_pinned_at_the_version_that_is_tested() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins: dict[str, str] = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    needed = _closure({"server", "trainer", "postgres", "otel", "dev"})
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in needed}
    assert {name: pins.get(name) for name in sorted(needed)} == installed, "run `make pins`"
