"""Recall through the real server and client is the recall of the model: what the torch network gives with exact search.

EVERLOOK_STORE_RESULTS=1 keeps the figures in tests/bench/results/grocery_recall.json.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clients import Client, Filter, Item, Query, SearchResult
from indexer.index.exact import search as exact_search
from indexer.model import load_manifest
from tests.bench.machine import store
from tests.e2e.process import ServerProcess
from trainer.export import load_network
from trainer.photos import batches

TOLERANCE = 0.003
PHOTOS = 5421
_TOGETHER = 32


@dataclass(frozen=True)
class Product:
    """A photo of the catalogue. The folder is its category, the file name begins with its split."""

    path: Path

    @property
    def id(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def category(self) -> str:
        return self.path.parent.name

    @property
    def split(self) -> str:
        return self.path.name.split("__")[0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_recall_of_groceries_through_the_server_is_that_of_the_torch_network(
    real_data: Path, model_folder: Path, grocery: Path
) -> None:
    products = [Product(path) for path in sorted(grocery.rglob("*.jpg"))]
    gallery = [product for product in products if product.split == "train"]
    queries = [product for product in products if product.split == "test"]
    assert len(products) == PHOTOS

    with ServerProcess(real_data) as server, server.client(timeout_s=120) as client:
        began = time.monotonic()
        answers = list(client.ingest((_item(product), product.path) for product in products))
        ingest_s = time.monotonic() - began
        assert [answer.error for answer in answers if answer.error] == []
        assert len({answer.id for answer in answers}) == PHOTOS
        status = client.status()
        assert status.catalogue.items == PHOTOS
        began = time.monotonic()
        served = list(_nearest(client, queries))
        search_s = time.monotonic() - began
        assert server.stop() == 0
    direct = _nearest_by_torch(model_folder, gallery, queries)

    categories = {product.id: product.category for product in gallery}
    recall = {
        name: float(np.mean([categories[id] == query.category for id, query in zip(ids, queries, strict=True)]))
        for name, ids in (("server", served), ("torch", direct))
    }
    assert status.generation is not None
    figures = {
        "photos": PHOTOS,
        "gallery": len(gallery),
        "queries": len(queries),
        "model": status.generation.model.id,
        "backbone": status.generation.model.backbone,
        "image_size": status.generation.model.image_size,
        "recall_at_1_through_server": round(recall["server"], 5),
        "recall_at_1_from_torch": round(recall["torch"], 5),
        "same_nearest_item": round(float(np.mean([a == b for a, b in zip(served, direct, strict=True)])), 5),
        "ingest_photos_per_s": round(PHOTOS / ingest_s, 1),
        "search_photos_per_s": round(len(queries) / search_s, 1),
    }
    print(f"\n{figures}")
    assert abs(recall["server"] - recall["torch"]) <= TOLERANCE
    if os.environ.get("EVERLOOK_STORE_RESULTS"):
        store("grocery_recall", figures)


def _item(product: Product) -> Item:
    return Item(product.id, product.category, {"split": product.split})


def _nearest(client: Client, queries: Sequence[Product]) -> Iterator[str]:
    """The id of the nearest item of the training split, for each query, through the server."""
    training = Filter(where={"split": "train"})
    for start in range(0, len(queries), _TOGETHER):
        some = queries[start : start + _TOGETHER]
        for result in client.search_batch([Query(image=each.path, k=1, filter=training) for each in some]):
            assert isinstance(result, SearchResult), result
            yield result.hits[0].id


def _nearest_by_torch(model_folder: Path, gallery: Sequence[Product], queries: Sequence[Product]) -> list[str]:
    """The same without server, index or ONNX."""
    network, spec = load_network(model_folder), load_manifest(model_folder).preprocessing

    def embed(products: Sequence[Product]) -> NDArray[np.float32]:
        pixels = batches([product.path for product in products], spec, _TOGETHER)
        with torch.inference_mode():
            return torch.cat([network(images) for images in pixels]).numpy()

    found = exact_search(embed(gallery), embed(queries), k=1)
    return [gallery[int(rows[0])].id for rows, _ in found]
