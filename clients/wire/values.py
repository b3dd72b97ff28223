"""Metadata and the generation that answered, which searches and items share."""

from __future__ import annotations

import numbers
from collections.abc import Mapping

import numpy as np

from clients.errors import InvalidRequest
from clients.types import GenerationRef, MetadataValue
from everlook.v1 import everlook_pb2 as pb


def metadata_value(field: str, value: object) -> pb.MetadataValue:
    if isinstance(value, str):
        return pb.MetadataValue(string=value)
    if isinstance(value, bool | np.bool_):
        return pb.MetadataValue(bool=bool(value))
    if isinstance(value, numbers.Real) and (not isinstance(value, numbers.Integral) or float(value) == int(value)):
        return pb.MetadataValue(number=float(value))
    raise InvalidRequest(
        f"{field} cannot be sent exactly",
        reason="INVALID_FIELD",
        field=field,
        got=ascii(value)[:200],
        expected="text, a number that a double holds exactly, or a truth value",
    )


def metadata_of(metadata: Mapping[str, pb.MetadataValue]) -> dict[str, MetadataValue]:
    kinds = {key: value.WhichOneof("kind") for key, value in metadata.items()}
    return {key: getattr(metadata[key], kind) for key, kind in sorted(kinds.items()) if kind is not None}


def generation_ref(message: pb.GenerationRef) -> GenerationRef:
    return GenerationRef(message.number, message.model)
