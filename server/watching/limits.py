"""What is watched of live queries, and when it counts as drifted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WatchLimits:
    """As the settings of the same names."""

    share: float = 0.05
    """Of live searches, that is watched."""
    reference: int = 512
    """Queries in the reference window."""
    reference_s: float = 3600.0
    """Time for which the reference is drawn, at the least."""
    window: int = 256
    """Queries in each live window."""
    alpha: float = 0.01
    """p-value below which a window has drifted: about the share of windows that are false alarms."""
