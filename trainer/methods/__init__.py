"""Ways to learn a stage of new categories, one file each.

A new method is one new file here: its name is the method's name, and it defines `METHOD`, a `Method`. Its settings are
the fields of that dataclass, and can be set where a method is named: `mutual:supporter=pretrained,mutual=1`.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import typing

from indexer.errors import InvalidField
from trainer.methods._method import Init, Learner, Losses, Method, Start

__all__ = ["Init", "Learner", "Losses", "Method", "Start", "find", "names"]


def names() -> list[str]:
    """The methods there are, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(spec: str) -> Method:
    """The method `name` or `name:setting=value,setting=value`.

    Errors: InvalidField when there is no such method or setting, or a value that it cannot take.
    """
    name, _, settings = spec.partition(":")
    if name not in names():
        raise InvalidField(
            f"there is no method {name!r}; choose one of {', '.join(names())}",
            field="method",
            got=name,
            expected=", ".join(names()),
        )
    kind = importlib.import_module(f"{__name__}.{name}").METHOD
    pairs = [setting.partition("=")[::2] for setting in settings.split(",") if setting]
    if len(dict(pairs)) != len(pairs):
        raise InvalidField(f"{spec} sets something twice", field="method", got=spec, expected="each setting once")
    method: Method = kind(**{key: _value(kind, name, key, value) for key, value in pairs})
    return method


def _value(kind: type, name: str, key: str, text: str) -> object:
    """A setting's value, of the type that its field has."""
    types = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    if key not in known:
        expected = ", ".join(known) or "none"
        raise InvalidField(
            f"{name} has no setting {key!r}; it has {expected}", field="method", got=key, expected=expected
        )
    if choices := typing.get_args(types[key]):
        if text in choices:
            return text
        raise InvalidField(
            f"{key} of {name} cannot be {text!r}", field="method", got=text, expected=" or ".join(choices)
        )
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InvalidField(
            f"{key} of {name} cannot be {text!r}", field="method", got=text, expected="a number, at least 0"
        )
    return number
