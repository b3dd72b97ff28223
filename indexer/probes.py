"""Which items are probes: held out from training, so that recall can be measured with them (promise 6)."""

from __future__ import annotations

import hashlib
from typing import Final

PROBE_SHARE: Final = 0.2


def is_probe(item_id: str) -> bool:
    """Whether an item is held out. It follows from the id alone, from the first item on and for ever."""
    return rank(item_id) < PROBE_SHARE


def rank(item_id: str) -> float:
    """A number from 0 to 1 that follows from the id alone. Where there are too many probes, the lowest are taken."""
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8]) / 2**64
