"""The compose file and the images that it builds: what it names is there. No container engine is needed, or used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import click
import pytest

from clients.cli import main
from indexer.logs import style_of
from server.settings import Settings
from tests.conftest import ROOT
from tests.deploy.plain import load
from tests.test_make import DOCKERFILE, instructions
from trainer.__main__ import parser

FOLDER = ROOT / "deploy"
COMPOSE: dict[str, Any] = load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BUILDERS = {name: service for name, service in SERVICES.items() if "build" in service}
BUILDS: dict[str, dict[str, Any]] = {service["image"]: service["build"] for service in BUILDERS.values()}
PULLED = {name: service for name, service in SERVICES.items() if service["image"] not in BUILDS}
ONCE = {"first-model"}


def stage(target: str) -> list[str]:
    """The lines of one stage of the Dockerfile."""
    starts = [number for number, line in enumerate(DOCKERFILE) if line.startswith("FROM ")]
    (begin,) = (number for number in starts if DOCKERFILE[number].endswith(f" AS {target}"))
    return DOCKERFILE[begin : min((number for number in starts if number > begin), default=len(DOCKERFILE))]


@pytest.mark.parametrize("name", PULLED)
def test_an_image_that_is_pulled_is_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", PULLED[name]["image"])


@pytest.mark.parametrize("image", BUILDS)
def test_an_image_that_is_built_is_a_stage_of_the_dockerfile(image: str) -> None:
    assert (FOLDER / BUILDS[image]["context"] / "Dockerfile").is_file()
    assert stage(BUILDS[image]["target"])


def awaited(name: str) -> set[str]:
    """The services that come before this one."""
    direct = set[str](SERVICES[name].get("depends_on", {}))
    return direct.union(*map(awaited, direct))


def test_one_service_builds_an_image_and_others_that_run_it_come_later_and_pull_none() -> None:
    """Compose builds all images at once, and a second one of the same name fails."""
    for image in BUILDS:
        users = [name for name, service in SERVICES.items() if service["image"] == image]
        (builder,) = BUILDERS.keys() & users
        for other in set(users) - {builder}:
            assert SERVICES[other]["pull_policy"] == "never"
            assert builder in awaited(other)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_without_root(name: str) -> None:
    service = SERVICES[name]
    if service["image"] in BUILDS:
        (user,) = (line.split()[1] for line in stage(BUILDS[service["image"]]["target"]) if line.startswith("USER "))
    else:
        user = service["user"]
    assert int(user.split(":")[0]) > 0


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONCE))
def test_a_service_is_started_again_and_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    build = BUILDS.get(service["image"])
    built = build is not None and any(line.startswith("HEALTHCHECK ") for line in stage(build["target"]))
    # The trainer answers nobody; the server says whether it runs.
    assert "healthcheck" in service or built or name == "trainer"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    for source, inside, *mode in (volume.split(":") for volume in SERVICES[name].get("volumes", [])):
        assert inside.startswith("/")
        if source.startswith("."):
            assert (FOLDER / source).exists(), source
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


def test_where_pip_looks_for_torch_is_for_whoever_builds_to_say() -> None:
    """The Makefile's step gets it as pip itself does, from the environment of RUN."""
    assert BUILDS["everlook-train"]["args"] == {"PIP_EXTRA_INDEX_URL": "${PIP_EXTRA_INDEX_URL:-}"}
    _, *lines = (line for line in stage("train-venv") if line and not line.startswith("#"))
    assert lines == ["ARG PIP_EXTRA_INDEX_URL", "RUN make venv-train PREFIX=/opt/everlook"]


@pytest.mark.parametrize(("extra", "looks_in"), [("", []), ("http://127.0.0.1:9/cpu", ["http://127.0.0.1:9/cpu"])])
def test_pip_ignores_an_index_that_is_not_given(extra: str, looks_in: list[str]) -> None:
    main = "http://127.0.0.1:9/"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--retries=0", f"--index-url={main}", "x"]
    env = os.environ | {"PIP_EXTRA_INDEX_URL": extra, "PIP_CONFIG_FILE": os.devnull}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout
    (indexes,) = re.findall(r"^Looking in indexes: (.*)", said, re.MULTILINE)
    assert indexes.split(", ") == [main, *looks_in]


def test_no_port_is_open_to_other_machines() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_can_come(name: str) -> None:
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        assert wait["condition"] == ("service_completed_successfully" if other in ONCE else "service_healthy")
        assert other in SERVICES


def test_the_trainers_container_gives_way_to_the_others() -> None:
    assert {name: service["cpu_shares"] for name, service in SERVICES.items() if "cpu_shares" in service} == {
        "trainer": "2"
    }


def test_prometheus_reads_the_server_where_it_listens() -> None:
    (scrape,) = load((FOLDER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    port = Settings.model_fields["metrics_port"].default
    assert scrape["static_configs"] == [{"targets": [f"everlook:{port}"]}]
    assert f"127.0.0.1:{Settings.model_fields['port'].default}:50051" in SERVICES["everlook"]["ports"]
    mounted = dict(volume.split(":")[:2] for volume in SERVICES["prometheus"]["volumes"])
    config = f"--config.file={mounted['./prometheus/prometheus.yml']}"
    assert config in SERVICES["prometheus"]["command"]
    assert f"--storage.tsdb.path={mounted['series']}" in SERVICES["prometheus"]["command"]
    assert mounted["./prometheus/rules"] == "/etc/prometheus/rules"


def test_what_the_programs_are_told_they_know() -> None:
    flags = [word for word in SERVICES["everlook"]["command"] if word.startswith("--")]
    assert {flag[2:].replace("-", "_") for flag in flags} <= Settings.model_fields.keys()
    assert parser().parse_args(SERVICES["trainer"]["command"]).command == "run"
    exported = SERVICES["first-model"]["entrypoint"][-1].split("python -m trainer ")[1].split()
    assert parser().parse_args(exported).command == "export"


def test_server_and_trainer_log_in_one_format() -> None:
    words = SERVICES["everlook"]["command"]
    server = words[words.index("--log-format") + 1]
    assert style_of(SERVICES["trainer"]["environment"]) == server == "json"


def test_the_image_of_the_server_asks_the_server_whether_it_is_well() -> None:
    (check,) = instructions("HEALTHCHECK")
    program, command = re.findall(r'"([^"]+)"', check)
    assert (program, isinstance(main, click.Group)) == ("everlook", True)
    assert command in main.commands
