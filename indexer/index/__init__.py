"""The index: an immutable main segment, an exact delta beside it, tombstones, and frozen views of all three."""

from indexer.index.filters import AnyOf, Filter, MetadataValue, Range
from indexer.index.gallery import Change, Gallery, Removal, Upsert
from indexer.index.segment import Segment
from indexer.index.view import Hits, SearchParams, View

__all__ = [
    "AnyOf",
    "Change",
    "Filter",
    "Gallery",
    "Hits",
    "MetadataValue",
    "Range",
    "Removal",
    "SearchParams",
    "Segment",
    "Upsert",
    "View",
]
