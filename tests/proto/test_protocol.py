"""The protocol's file: its committed stubs, its comments, its names and numbers, and its error reasons."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    OneofDescriptorProto,
    ServiceDescriptorProto,
)

from indexer.errors import EverlookError
from tests.conftest import ROOT

PROTO = ROOT / "proto"
FILE = "everlook/v1/everlook.proto"
DECLARED = (
    DescriptorProto,
    FieldDescriptorProto,
    OneofDescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    ServiceDescriptorProto,
    MethodDescriptorProto,
)


def _parse() -> FileDescriptorProto:
    """The file's descriptor, with the place and comment of everything in its source."""
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "--include_source_info"]
    command += ["--descriptor_set_out=/dev/stdout", FILE]
    done = subprocess.run(command, cwd=PROTO, capture_output=True, check=True)
    (file,) = FileDescriptorSet.FromString(done.stdout).file
    return file


PROTOCOL = _parse()


def _at(path: Sequence[int]) -> tuple[str, Any]:
    """The dotted name and the descriptor at a source path: field numbers and indices in turn."""
    names: list[str] = []
    found: Any = PROTOCOL
    for number, index in zip(path[::2], path[1::2], strict=True):
        found = getattr(found, found.DESCRIPTOR.fields_by_number[number].name)[index]
        names.append(getattr(found, "name", ""))
    return ".".join(names), found


def _comments() -> Iterator[tuple[str, str]]:
    """Every declaration's dotted name and leading comment."""
    for place in PROTOCOL.source_code_info.location:
        # A path of odd length ends at an attribute of a declaration, such as its name or type.
        if len(place.path) % 2 == 0 and place.path:
            name, found = _at(place.path)
            if isinstance(found, DECLARED):
                yield name, place.leading_comments.strip()


def _messages(messages: Sequence[DescriptorProto] = PROTOCOL.message_type) -> Iterator[DescriptorProto]:
    for message in messages:
        yield message
        yield from _messages(message.nested_type)


METHODS = [
    pytest.param(service, m, id=f"{service.name}.{m.name}") for service in PROTOCOL.service for m in service.method
]
MESSAGES = [pytest.param(m, id=m.name) for m in _messages()]
ENUMS = [pytest.param(e, id=e.name) for e in PROTOCOL.enum_type]


def test_the_committed_stubs_are_what_the_file_generates(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PYTHON": sys.executable, "PATH": path}
    subprocess.run(["sh", str(PROTO / "generate.sh"), str(tmp_path)], env=env, check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "everlook/v1").iterdir()}
    kept = {path.name: path.read_text() for path in (PROTO / "everlook/v1").glob("everlook_pb2*")}
    assert len(made) == 4
    assert sorted(made) == sorted(kept)
    differ = [name for name in made if made[name] != kept[name]]
    assert not differ, "run `make stubs`"


def test_everything_in_the_file_has_a_comment() -> None:
    comments = dict(_comments())
    declared = sum(1 + len(m.field) for m in _messages() if not m.options.map_entry) + len(PROTOCOL.service)
    assert len(comments) >= declared
    assert [name for name, comment in comments.items() if not comment] == []


@pytest.mark.parametrize("message", MESSAGES)
def test_fields_are_lower_snake_case_and_numbered_without_gaps(message: DescriptorProto) -> None:
    assert [f.name for f in message.field if not re.fullmatch(r"[a-z]+[0-9]*(_[a-z0-9]+)*", f.name)] == []
    reserved = {number for span in message.reserved_range for number in range(span.start, span.end)}
    numbers = sorted({f.number for f in message.field} | reserved)
    assert numbers == list(range(1, len(numbers) + 1)), "a removed field's number must be reserved"


@pytest.mark.parametrize("enum", ENUMS)
def test_enum_values_carry_the_name_of_their_enum_and_zero_is_unspecified(enum: EnumDescriptorProto) -> None:
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper()
    assert (enum.value[0].name, enum.value[0].number) == (f"{prefix}_UNSPECIFIED", 0)
    assert [v.name for v in enum.value if not re.fullmatch(rf"{prefix}(_[A-Z0-9]+)+", v.name)] == []
    reserved = {number for span in enum.reserved_range for number in range(span.start, span.end + 1)}
    numbers = sorted({v.number for v in enum.value} | reserved)
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(("service", "method"), METHODS)
def test_an_rpc_has_a_request_and_a_response_of_its_own(
    service: ServiceDescriptorProto, method: MethodDescriptorProto
) -> None:
    assert method.input_type == f".{PROTOCOL.package}.{method.name}Request"
    assert method.output_type == f".{PROTOCOL.package}.{method.name}Response"


def test_no_two_services_share_the_name_of_an_rpc() -> None:
    names = [method.name for service in PROTOCOL.service for method in service.method]
    assert len(names) == len(set(names))


def test_error_reasons_are_those_of_the_engine() -> None:
    def reasons(error: type[EverlookError]) -> set[str]:
        return {error.reason}.union(
            *(reasons(kind) for kind in error.__subclasses__() if kind.__module__ == error.__module__)
        )

    (enum,) = (e for e in PROTOCOL.enum_type if e.name == "ErrorReason")
    on_the_wire = {value.name.removeprefix("ERROR_REASON_") for value in enum.value} - {"UNSPECIFIED"}
    assert on_the_wire == reasons(EverlookError)
