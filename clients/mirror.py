"""Dataclasses and enums that have the names of the protocol's messages, filled from them by name."""

from __future__ import annotations

import datetime
import types
import typing
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def mirror(kind: type[T], message: Any) -> T:
    """A dataclass from the message that has the same fields; a field that may be None is so when it is absent."""
    return kind(**{name: _field(hint, message, name) for name, hint in typing.get_type_hints(kind).items()})


def enum_member(kind: type[E], descriptor: Any, number: int) -> E:
    """The member named like the protocol's value, less its prefix; the first one for a value that is not known."""
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    known = descriptor.values_by_number.get(number) if number else None
    return kind(known.name.removeprefix(prefix).lower()) if known is not None else next(iter(kind))


def _field(hint: Any, message: Any, name: str) -> Any:
    value = getattr(message, name)
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return _field(arguments[0], message, name) if message.HasField(name) else None
    if typing.get_origin(hint) is tuple:
        return tuple(mirror(arguments[0], element) for element in value)
    if hint is datetime.datetime:
        return value.ToDatetime(datetime.UTC)
    if issubclass(hint, StrEnum):
        return enum_member(hint, message.DESCRIPTOR.fields_by_name[name].enum_type, value)
    return mirror(hint, value) if hasattr(hint, "__dataclass_fields__") else value
