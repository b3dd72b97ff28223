"""The catalogue: items, photos and vectors, in one total order of changes."""

from indexer.catalogue.committer import Capacity, Committer
from indexer.catalogue.history import Cause, CohortCounts, History, Measurement, SwapRecord
from indexer.catalogue.store import Catalogue
from indexer.catalogue.values import (
    Applied,
    CategoryCount,
    Change,
    Delete,
    Entry,
    EntryChunk,
    MetadataValue,
    Outcome,
    Photo,
    Put,
    StoredItem,
    Totals,
)

__all__ = [
    "Applied",
    "Capacity",
    "Catalogue",
    "CategoryCount",
    "Cause",
    "Change",
    "CohortCounts",
    "Committer",
    "Delete",
    "Entry",
    "EntryChunk",
    "History",
    "Measurement",
    "MetadataValue",
    "Outcome",
    "Photo",
    "Put",
    "StoredItem",
    "SwapRecord",
    "Totals",
]
