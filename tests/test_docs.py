"""What the documentation shows is there: commands, flags, settings, metrics, links. What is tracked works anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from server.settings import Settings
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
TEXT = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}

# Machines and registries that a checkout elsewhere does not have.
PLACES = re.compile(
    r"/(?:work|root|farm)/|/tmp/[a-z]"
    r"|\b(?:files\.pythonhosted|pypi|pytorch|registry\.npmjs|deb\.debian|docker|ghcr|quay)\.(?:org|io)\b"
)
DATA_SUFFIXES = {".jpg", ".jpeg", ".onnx", ".pt", ".pth", ".safetensors", ".npz", ".npy", ".faiss", ".db", ".whl"}


def found(pattern: str) -> list[object]:
    """Every match in the documentation, as parameters named by page."""
    matches = {(page, match) for page, text in TEXT.items() for match in re.findall(pattern, text, re.MULTILINE)}
    return [pytest.param(page, match, id=f"{page}: {match}"[:100]) for page, match in sorted(matches)]


def code(text: str) -> list[str]:
    """The lines of code of a page: of its indented and fenced blocks, and its inline code."""
    joined = text.replace("\\\n", " ")
    blocks = re.findall(r"^```.*?\n(.*?)^```", joined, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^(?: {4}|\t).+$", joined, re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", joined)
    return [line.strip() for part in [*blocks, *indented, *inline] for line in part.splitlines()]


LINES = sorted({(page, line) for page, text in TEXT.items() for line in code(text)})


def lines_with(pattern: str) -> list[object]:
    return [pytest.param(page, line, id=f"{page}: {line}"[:100]) for page, line in LINES if re.search(pattern, line)]


def test_the_readme_shows_its_two_commands() -> None:
    assert {"make demo", "make test"} <= {line.split("#")[0].strip() for page, line in LINES if page == "README.md"}


@pytest.mark.parametrize(("page", "line"), lines_with(r"^make [a-z]"))
def test_a_make_command_that_is_shown_exists(page: str, line: str) -> None:
    words = line.split("#")[0].split()[1:]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if re.fullmatch(r"[a-z-]+", word)} <= targets


@pytest.mark.parametrize(("page", "line"), lines_with(r"^(\$ )?everlook [a-z]"))
def test_an_everlook_command_and_its_flags_that_are_shown_exist(page: str, line: str) -> None:
    from clients.cli import main

    words = re.split(r"\s[|>#]\s?", line.removeprefix("$ "))[0].split()[1:]
    command: click.Command = main
    options: set[str] = set()
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        options |= _options(command)
        assert words[0] in command.commands, f"no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    options |= _options(command)
    shown = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
    assert shown <= options


def _options(command: click.Command) -> set[str]:
    """The flags of a command; `serve` hands what it gets to the server, whose flags are its settings."""
    own = {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
    if command.name == "serve":
        own |= {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    return own | {"--help"}


@pytest.mark.parametrize(("page", "name"), found(r"\bEVERLOOK_[A-Z0-9_]+\b"))
def test_an_environment_variable_that_is_shown_is_read(page: str, name: str) -> None:
    settings = {f"EVERLOOK_{field.upper()}" for field in Settings.model_fields}
    read = {
        match for path in (ROOT / "clients").rglob("*.py") for match in re.findall(r"EVERLOOK_\w+", path.read_text())
    }
    assert name in settings | read | {"EVERLOOK_TEST_PHOTOS"}


@pytest.mark.parametrize(("page", "name"), found(r"\beverlook_[a-z_]+[a-z]\b"))
def test_a_metric_that_is_shown_is_in_the_table_that_is_held_against_a_running_server(page: str, name: str) -> None:
    table = set(re.findall(r"^\| `(everlook_\w+)` \|", TEXT["docs/metrics.md"], re.MULTILINE))
    assert {name, re.sub(r"_(bucket|count|sum)$", "", name)} & table


@pytest.mark.parametrize(("page", "target"), found(r"\]\(([^)\s]+)\)"))
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    if not re.match(r"[a-z]+:", target):
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists()
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files of the repository."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_tracked_file_names_a_machine_path_or_a_registry(tracked: list[Path]) -> None:
    named = {}
    for path in tracked:
        if path.suffix not in {".webp", ".png"} and (match := PLACES.search(path.read_text())):
            named[path.relative_to(ROOT).as_posix()] = match[0]
    assert named == {}


def test_no_tracked_file_is_large_or_holds_photos_or_weights(tracked: list[Path]) -> None:
    assert [path.name for path in tracked if path.stat().st_size > 1 << 20 or path.suffix in DATA_SUFFIXES] == []
