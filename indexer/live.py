"""What is served, kept in step with the catalogue; and how another generation takes its place between two changes.

All of `LiveGallery` but `live` and `upcoming` belongs to the writer's thread (`Committer`), where no change is under
way.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue import Applied, Catalogue
from indexer.embedding import embed
from indexer.encoder import Encoder
from indexer.errors import StorageFull
from indexer.generation import Generation, Live, Serving
from indexer.index import Change, Gallery, Removal, Upsert, View


@dataclass(eq=False)
class Rebuild:
    """A generation in the making, of the live model (a merge) or of another one (a promotion)."""

    encoder: Encoder
    view: View
    """The gallery when it began: frozen, for another thread to build from."""
    since: list[list[Change]] = field(default_factory=list)
    """What has changed after that, with vectors by `encoder`."""


class LiveGallery:
    """The gallery, the one reference to what is served, and at most one rebuild at a time."""

    def __init__(self, catalogue: Catalogue, generation: Generation, gallery: Gallery) -> None:
        self._catalogue = catalogue
        self._gallery = gallery
        self._rebuild: Rebuild | None = None
        self.live = Live(Serving(generation, gallery.view))
        self.upcoming: Encoder | None = None
        """The encoder of the generation that is about to go live: new photos are embedded by it too. Any thread may
        read it."""

    def models(self) -> list[str]:
        """The models of which every change needs a vector."""
        encoders = {self.live.current.generation.encoder, self.upcoming}
        return [encoder.manifest.id for encoder in encoders if encoder is not None]

    def apply(self, applied: list[Applied]) -> None:
        """Makes changes that are durable findable. Errors: CatalogueDamaged when a photo cannot be embedded."""
        serving = self.live.current
        view = self._gallery.apply([self._change(each, serving.generation.encoder) for each in applied])
        if self._rebuild is not None:
            self._rebuild.since.append([self._change(each, self._rebuild.encoder) for each in applied])
        self.live.current = Serving(serving.generation, view)

    def begin(self, encoder: Encoder) -> Rebuild | None:
        """From here on changes are kept for the rebuild, too. None while another is under way."""
        if self._rebuild is not None:
            return None
        self._rebuild = Rebuild(encoder, self.live.current.view)
        return self._rebuild

    @property
    def rebuilding(self) -> bool:
        """Whether a rebuild is under way."""
        return self._rebuild is not None

    def end(self) -> None:
        """Ends the rebuild; without `swap` before it, nothing has changed."""
        self._rebuild = None

    def catch_up(self, rebuild: Rebuild, gallery: Gallery) -> None:
        """Applies to the new gallery what has changed since the rebuild began."""
        for changes in rebuild.since:
            gallery.apply(changes)
        rebuild.since.clear()

    def swap(self, generation: Generation, gallery: Gallery) -> None:
        """One assignment: every query that begins after it is answered by the new generation."""
        self._gallery = gallery
        self.live.current = Serving(generation, gallery.view)

    def _change(self, applied: Applied, encoder: Encoder) -> Change:
        entry = applied.entry
        if entry is None:
            return Removal(applied.seq, applied.id)
        vector = applied.vectors.get(encoder.manifest.id)
        if vector is None:
            vector = self._embedded(entry.image_sha256, encoder)
        return Upsert(entry.seq, entry.id, entry.category, entry.metadata, vector)

    def _embedded(self, sha256: str, encoder: Encoder) -> NDArray[np.float32]:
        """The vector of a photo that came, encoded by the model before, while this one was about to go live.

        At most what workers had in hand at that moment; everything else is encoded before it gets here.
        """
        made = self._catalogue.vectors(encoder.manifest.id, [sha256])
        found = made or embed(self._catalogue, encoder, [sha256])
        if sha256 not in found:
            # A later change of the same transaction has removed all that shows the photo: this entry is dead already.
            anything = np.zeros(encoder.manifest.dimension, np.float32)
            anything[0] = 1
            return anything
        with contextlib.suppress(StorageFull):  # one that is missing is made again at the next start
            self._catalogue.store_vectors(encoder.manifest.id, found)
        return found[sha256]
