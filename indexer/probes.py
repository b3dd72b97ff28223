"""Which items are probes: held out from training, so that recall can be measured with them (promise 6)."""

from __future__ import annotations

import hashlib
from typing import Final

PROBE_SHARE: Final = 0.2


def is_probe(item_id: str) -> bool:
    """Whether an item is held out. It follows from the id alone, from the first item on and for ever."""
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8]) < PROBE_SHARE * 2**64
