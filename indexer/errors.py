"""Every error that the engine raises on purpose. The class says what the caller can do about it.

    EverlookError
    ├── InvalidInput            change the request; nothing was changed
    │   ├── MalformedMessage    it is not a message of the protocol
    │   ├── InvalidField        a field is missing, too long, out of range, or holds what it must not
    │   ├── ImageUnreadable     the photo is empty, cut off, damaged, or no image
    │   ├── ImageTooLarge       the photo has more bytes or pixels than the limit
    │   └── InvalidVector       wrong length, not finite, or all zero
    ├── ModelMismatch           embed again with the serving model
    ├── ItemNotFound            no item has that id
    ├── GenerationNotFound      no generation has that number
    ├── NotReady                the request is right, the state is not; nothing was changed
    │   └── GateFailed          a candidate was measured and found wanting
    ├── Overloaded              try again later; nothing was changed
    │   ├── QueueFull           too much work is waiting
    │   └── StorageFull         the disk is full, or the database refuses writes
    ├── NotServing              try again when the server is up
    ├── DeadlinePassed          the caller's deadline passed before the work began
    ├── Unsupported             this build does not have that capability
    └── Damaged                 a file or row does not match its checksum or format; an operator must look
        ├── ModelDamaged
        ├── GenerationDamaged
        └── CatalogueDamaged
            └── PhotoDamaged    one photo; all others can be read

`field`, `got` and `expected` travel to the caller as they are, so they hold no secrets and are kept short.
"""

from __future__ import annotations

from typing import ClassVar

_MAX_DETAIL = 200


def shorten(value: object) -> str:
    """Text of `value` that is safe to put into a message: printable and at most 200 characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= _MAX_DETAIL else text[: _MAX_DETAIL - 1] + "…"


class EverlookError(Exception):
    """The root. `reason` is the stable name that programs match on (the protocol's ErrorReason without its prefix)."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        got: object = "",
        expected: object = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.got = shorten(got)
        self.expected = shorten(expected)
        self.retry_after_s = retry_after_s


class InvalidInput(EverlookError):
    """The request can never succeed as it is."""

    reason = "INVALID_FIELD"


class MalformedMessage(InvalidInput):
    reason = "MALFORMED_MESSAGE"


class InvalidField(InvalidInput):
    reason = "INVALID_FIELD"


class ImageUnreadable(InvalidInput):
    reason = "IMAGE_UNREADABLE"


class ImageTooLarge(InvalidInput):
    reason = "IMAGE_TOO_LARGE"


class InvalidVector(InvalidInput):
    reason = "INVALID_VECTOR"


class ModelMismatch(EverlookError):
    """A vector of another model than the one that serves."""

    reason = "MODEL_MISMATCH"


class ItemNotFound(EverlookError):
    """No item has that id; `got` holds it."""

    reason = "ITEM_NOT_FOUND"


class GenerationNotFound(EverlookError):
    """No generation has that number; `got` holds it."""

    reason = "GENERATION_NOT_FOUND"


class NotReady(EverlookError):
    """What is asked for cannot be done as things stand, such as rolling back where nothing was live before."""

    reason = "NOT_READY"


class GateFailed(NotReady):
    """A candidate is not served: it failed a gate, which the message names."""


class Overloaded(EverlookError):
    """Nothing was changed; `retry_after_s` says when to try again, where that helps."""

    reason = "QUEUE_FULL"


class QueueFull(Overloaded):
    reason = "QUEUE_FULL"


class StorageFull(Overloaded):
    reason = "STORAGE_FULL"


class NotServing(EverlookError):
    """Starting, stopping, or broken."""

    reason = "NOT_SERVING"


class DeadlinePassed(EverlookError):
    """The work was dropped unrun."""

    reason = "DEADLINE_EXCEEDED"


class Unsupported(EverlookError):
    """Not built, or not built in."""

    reason = "UNIMPLEMENTED"


class Damaged(EverlookError):
    """What is stored does not match its checksum or format."""

    reason = "DATA_DAMAGED"


class ModelDamaged(Damaged):
    pass


class GenerationDamaged(Damaged):
    pass


class CatalogueDamaged(Damaged):
    pass


class PhotoDamaged(CatalogueDamaged):
    """The bytes of one photo have changed on the disk; `expected` is the SHA-256 that they had."""
