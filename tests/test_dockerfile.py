"""The commands that the Dockerfile's head shows: they work on an empty volume, and open no port to other machines."""

from __future__ import annotations

import itertools
import re
import shlex

from server.settings import Settings
from tests.conftest import ROOT
from trainer.__main__ import parser

TEXT = (ROOT / "Dockerfile").read_text()
SHOWN = [shlex.split(line) for line in re.findall(r"^#   (docker .+)$", TEXT, re.MULTILINE)]
BUILDS = {words[words.index("-t") + 1]: words[words.index("--target") + 1] for words in SHOWN if words[1] == "build"}
RUNS = [words for words in SHOWN if words[1] == "run"]


def test_an_image_is_built_before_it_is_run() -> None:
    assert {image: f" AS {stage}\n" in TEXT for image, stage in BUILDS.items()} == dict.fromkeys(BUILDS, True)
    built: set[str] = set()
    for words in SHOWN:
        if words[1] == "build":
            built.add(words[words.index("-t") + 1])
        else:
            assert built & set(words)


def test_the_first_model_is_made_in_the_volume_before_the_server_starts_there() -> None:
    first, server = RUNS
    image = first.index(next(image for image, stage in BUILDS.items() if stage == "train"))
    options = parser().parse_args(first[image + 1 :])
    assert (options.command, str(options.data)) == ("export", "/data")
    assert first[first.index("-v") + 1] == server[server.index("-v") + 1] == "everlook:/data"
    assert BUILDS[server[-1]] == "serve"


def test_what_is_published_is_for_this_machine_alone() -> None:
    published = [word for words in RUNS for flag, word in itertools.pairwise(words) if flag == "-p"]
    ports = [Settings.model_fields[name].default for name in ("port", "metrics_port")]
    assert published == [f"127.0.0.1:{port}:{port}" for port in ports]
