"""Freed memory that the process keeps: where glibc is, and nowhere else."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from indexer.allocator import give_back_memory, keep_freed_memory

# In a process of its own: what is said, and the MiB that stay when 64 are freed, and when they are given back.
CHILD = """
import pathlib, resource
from indexer.allocator import give_back_memory, keep_freed_memory
def mib():
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize() / 2**20
said, before = keep_freed_memory() if KEEP else None, mib()
held = b"1" * (64 << 20)
del held
kept = mib()
give_back_memory()
print(said, round(kept - before), round(mib() - before))
"""


def answer(keep: bool) -> tuple[str, int, int]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD.replace("KEEP", str(keep))], capture_output=True, text=True, check=True
    )
    said, kept, left = done.stdout.split()
    return said, int(kept), int(left)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc")
def test_with_glibc_what_is_freed_is_kept_until_it_is_given_back_and_it_says_so() -> None:
    assert answer(keep=False)[1] < 32
    said, kept, left = answer(keep=True)
    assert said == "True"
    assert kept > 60
    assert left < 8


def libc(*results: int) -> Callable[[object], SimpleNamespace]:
    """A libc whose mallopt answers with these, one after the other."""
    answers = iter(results)
    return lambda name: SimpleNamespace(mallopt=lambda parameter, value: next(answers))


def without_mallopt(name: object) -> SimpleNamespace:
    return SimpleNamespace()


def without_libc(name: object) -> SimpleNamespace:
    raise OSError("dynamic loading is not supported")


@pytest.mark.parametrize("system", ["darwin", "win32", "freebsd14"])
def test_on_another_system_nothing_is_asked_for(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("it looked for a libc"))
    assert keep_freed_memory() is False


@pytest.mark.parametrize("found", [without_libc, without_mallopt], ids=["no libc", "a libc without malloc_trim"])
def test_where_nothing_is_kept_nothing_is_given_back(
    found: Callable[[object], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", found)
    give_back_memory()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (libc(1, 1), True),
        (libc(1, 0), False),
        (libc(0, 1), False),
        (without_mallopt, False),
        (without_libc, False),
    ],
    ids=["both are granted", "only the first is", "only the second is", "a libc without mallopt", "no libc"],
)
def test_on_linux_it_says_what_the_libc_says(
    found: Callable[[object], SimpleNamespace], said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", found)
    assert keep_freed_memory() is said
