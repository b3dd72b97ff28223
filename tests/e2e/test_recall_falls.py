"""Photos of birds and a real model: probes whose photos have got worse show as drift, until they are mended.

The model that has "learned" the cohort is the pretrained one: what is tested is that a fall is seen.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from everlook.v1 import everlook_pb2 as pb
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.devices import detect
from indexer.embedding import embed_missing
from indexer.encoder import Encoder
from indexer.gates import GATES, to_json
from indexer.generation import live_model, publish_generation
from indexer.index import Segment
from indexer.lineage import LINEAGE, Lineage
from indexer.model import ONNX, load_manifest, publish_model
from indexer.probes import is_probe
from tests.server.recalled import drifts, fell, history, wait_for
from tests.server.running import Running, item, running

WAIT_S = 60.0

KINDS, PHOTOS = 8, 16  # species, each second one of the folder, and photos of each: every other photo is a probe's

_PROBES = [id for id in (f"probe-{n}" for n in range(1000)) if is_probe(id)]
_OTHERS = [id for id in (f"item-{n}" for n in range(1000)) if not is_probe(id)]


def blurred(photo: Image.Image) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(photo.width / 12))


def cropped(photo: Image.Image) -> Image.Image:
    return photo.crop((0, 0, photo.width // 4, photo.height // 4))


def discoloured(photo: Image.Image) -> Image.Image:
    return ImageOps.posterize(ImageOps.invert(photo), 1)


WORSE: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": blurred,
    "cropped": cropped,
    "discoloured": discoloured,
}


class Birds:
    """The items: id, category and photo."""

    def __init__(self, folder: Path) -> None:
        kinds = [path for path in sorted(folder.iterdir()) if len(list(path.glob("*.jpg"))) >= PHOTOS]
        self.kinds = tuple(path.name for path in kinds[: 2 * KINDS : 2])
        self.items = [
            ((_PROBES if n % 2 else _OTHERS)[PHOTOS * kind + n], name, photo)
            for kind, name in enumerate(self.kinds)
            for n, photo in enumerate(sorted((folder / name).glob("*.jpg"))[:PHOTOS])
        ]

    def put(
        self, server: Running, change: Callable[[Image.Image], Image.Image] | None = None, *, probes: bool = True
    ) -> None:
        """Writes the probes, as they are or changed, or the other items."""
        requests = [
            pb.IngestRequest(item=item(id, category), image=_bytes(photo, change))
            for id, category, photo in self.items
            if is_probe(id) == probes
        ]
        answers = list(server.catalog.Ingest(iter(requests), timeout=WAIT_S))
        assert len(answers) == len(requests)
        assert not any(each.HasField("error") for each in answers)


def _bytes(photo: Path, change: Callable[[Image.Image], Image.Image] | None) -> bytes:
    if change is None:
        return photo.read_bytes()
    file = io.BytesIO()
    with Image.open(photo) as image:
        change(image.convert("RGB")).save(file, "JPEG", quality=90)
    return file.getvalue()


def publish(data: DataDir, model: Path, *cohorts: tuple[str, ...]) -> int:
    """The real model as one that has learned these cohorts, and a generation of it."""
    manifest = load_manifest(model)

    def write(folder: Path) -> None:
        shutil.copy(model / ONNX, folder / ONNX)
        (folder / LINEAGE).write_text(Lineage(live_model(data) or "", 1, cohorts).to_json(), encoding="utf-8")
        (folder / GATES).write_text(json.dumps(to_json([])), encoding="utf-8")

    taught = publish_model(
        data.models,
        write,
        backbone=manifest.backbone,
        dimension=manifest.dimension,
        preprocessing=manifest.preprocessing,
        stages=len(cohorts),
    )
    with Catalogue.open(data.catalogue_url) as catalogue:
        embed_missing(catalogue, Encoder.load(data.model(taught.id), detect(), 1), catalogue.store_vectors)
        pairs = [(entry.seq, vector) for chunk in catalogue.entries_with_vectors(taught.id) for entry, vector in chunk]
        seqs = np.array([seq for seq, _ in pairs], np.uint64)
        segment = Segment.build(np.array([vector for _, vector in pairs], np.float32), seqs)
        return publish_generation(data, taught.id, catalogue.last_seq, segment).number


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, cub: Path) -> Iterator[tuple[Running, Birds]]:
    """A server that measures again and again, in which the first stage has just gone live."""
    birds, folder = Birds(cub), tmp_path_factory.mktemp("birds")
    with running(folder, hold=True, recall_every_s=0.2, most_drop=1.0) as server:
        birds.put(server, probes=False)
        birds.put(server)
        number = publish(DataDir(folder), model_folder, birds.kinds)
        server.admin.Promote(pb.PromoteRequest(number=number), timeout=WAIT_S)
        yield server, birds


def measured_from_now(server: Running) -> tuple[float, float]:
    """The drift of the cohort and its error, by a measurement that begins from now on."""
    now = time.time()  # one that is under way may end first
    wait_for(lambda: len([each for each in history(server).measurements if each.at.ToNanoseconds() / 1e9 > now]) >= 2)
    return drifts(server)["0"]


@pytest.mark.slow
@pytest.mark.parametrize("how", WORSE)
def test_photos_that_have_got_worse_show_as_drift_beyond_its_error_until_they_are_mended(
    shop: tuple[Running, Birds], how: str
) -> None:
    server, birds = shop
    assert measured_from_now(server)[0] == 0.0
    birds.put(server, WORSE[how])
    change, error = measured_from_now(server)
    print(f"{how}: {change:.3f}, standard error {error:.3f}")
    assert fell((change, error))
    birds.put(server)
    assert measured_from_now(server)[0] == 0.0
