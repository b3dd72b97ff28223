"""The Makefile's commands, and the Dockerfile whose steps they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings import Settings
from tests.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
# Steps that only a container has, and no Makefile's command could stand for.
OF_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS", "JOBS")  # which `make test ARGS=...` hands to the tests
CONTAINER_STEPS = ("apt-get update", "install -d ")


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    command = ["make", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def targets() -> set[str]:
    return set(re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def instructions(name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in DOCKERFILE if line.startswith(f"{name} ")]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The stamp of an environment that is up to date."""
    stamp = tmp_path / "venv/installed"
    stamp.parent.mkdir()
    stamp.touch()
    return stamp


def test_make_alone_lists_every_command() -> None:
    listed = set(re.findall(r"^  make (\S+)", make().stdout, re.MULTILINE))
    assert listed == targets()


def test_an_environment_is_made_once_and_again_when_what_it_is_made_from_changes(installed: Path) -> None:
    up_to_date = ("--question", f"VENV={installed.parent}", str(installed))
    assert make(*up_to_date).returncode == 0
    os.utime(installed, (0, 0))
    assert make(*up_to_date).returncode == 1


def test_the_demo_takes_a_folder_of_photos(installed: Path) -> None:
    show = ("--dry-run", f"VENV={installed.parent}", "demo")
    assert make(*show, "DATA=my photos").stdout.split("everlook ")[1].split() == ["demo", "'my", "photos'"]
    assert make(*show).stdout.split("everlook ")[1].split() == ["demo"]


def test_learning_takes_a_folder_of_photos_and_asks_for_it(installed: Path) -> None:
    variables = (f"VENV={installed.parent}", "learn")
    shown = make("--dry-run", *variables, "PHOTOS=my photos", "ARGS=--seeds 0").stdout
    assert shown.split("-m trainer ")[1].split() == ["bench", "'my", "photos'", "--out", "learning-out", "--seeds", "0"]
    refused = make(*variables)
    assert refused.returncode == 2
    assert "make learn PHOTOS=folder" in refused.stderr


def test_all_checks_say_which_tests_are_skipped_for_want_of_what() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (need,) = re.findall(r"^need\(\) \{.*?^\}", script, re.MULTILINE | re.DOTALL)
    needed = re.findall(r'^need (\w+) "[^"]+" (\w+) ', script, re.MULTILINE)
    assert {program for _, program in needed} == {"npm", "pg_virtualenv", "promtool", "prometheus"}
    calls = "need Some 'these tests' no-such-program --version; need Other 'those tests' true"
    done = subprocess.run(["bash", "-euc", f"{need}\n{calls}"], capture_output=True, text=True, check=True)
    assert done.stdout == "== NOT INSTALLED: Some. SKIPPED: these tests\n"


@pytest.mark.parametrize("target", ["venv-serve", "venv-train"])
def test_an_environment_for_an_image_needs_a_prefix(target: str) -> None:
    done = make(target)
    assert done.returncode == 2
    assert f"make {target} PREFIX=folder" in done.stderr


@pytest.mark.parametrize("step", instructions("RUN"))
def test_every_step_of_the_image_is_a_command_of_the_makefile(step: str) -> None:
    if step.startswith("make "):
        target, *variables = step.removeprefix("make ").split()
        assert target in targets()
        assert make("--dry-run", target, *variables).returncode == 0
    else:
        assert step.startswith(CONTAINER_STEPS)


def test_the_image_starts_a_program_that_exists_with_settings_that_it_has() -> None:
    for entry in instructions("ENTRYPOINT"):
        assert (program := re.fullmatch(r'\["python", "-m", "(\w+)"\]', entry))
        assert (ROOT / program[1] / "__main__.py").is_file(), entry
    settings = set(re.findall(r"EVERLOOK_(\w+)=", " ".join(instructions("ENV"))))
    assert settings <= {name.upper() for name in Settings.model_fields}
    ports = [Settings.model_fields[name].default for name in ("port", "metrics_port")]
    assert instructions("EXPOSE") == [" ".join(map(str, ports))]


def test_the_image_is_built_from_all_that_an_installation_needs() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {"indexer", "server", "trainer", "clients", "proto"}
    assert allowed == packages | {"pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE"}


@pytest.mark.slow
def test_promise_12_the_serving_image_has_the_server_and_no_torch(tmp_path: Path) -> None:
    """The image's own step, in a folder: needs pip's index."""
    done = make("venv-serve", f"PREFIX={tmp_path}/everlook")
    assert done.returncode == 0, done.stdout + done.stderr

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        where = tmp_path / "everlook/bin" / program
        return subprocess.run([str(where), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "No module named 'torch'" in run("python", "-c", "import torch").stderr
    served = run("python", "-m", "server", "--help")
    assert (served.returncode, "--port" in served.stdout) == (0, True), served.stderr
    assert run("everlook", "--help").returncode == 0
