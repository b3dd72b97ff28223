"""The photos that a stage's training may read."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from indexer.errors import ImageTooLarge, ImageUnreadable, InvalidField, InvalidInput
from indexer.model import Preprocessing
from tests.indexer.image_files import jpeg_of_many_scans
from tests.trainer import photo_folders
from trainer import augment, loader, lookahead, protocol, sampling, training_data
from trainer.augment import Augmentation
from trainer.loader import Loader
from trainer.sampling import PKSampler
from trainer.training_data import TrainingStage

MODULES = (augment, loader, lookahead, sampling, training_data)
OLD, NEW = {"ants": 5, "bees": 5}, {"cats": 5, "dogs": 6}


def stage_of(photos: Iterable[bytes | Path], number: int = 0) -> TrainingStage:
    """A stage of two categories; the first has half of the photos."""
    photos = tuple(photos)
    labels = tuple(int(2 * i >= len(photos)) for i in range(len(photos)))
    return TrainingStage(number, ("this", "that"), photos, labels)


def loader_of(stage: TrainingStage) -> Loader:
    return Loader(stage, PKSampler(stage.labels, seed=1, k=2), Augmentation(16), seed=1)


def reachable(*roots: object) -> Iterator[object]:
    """All that attributes, items, closures, default arguments, generators, threads and methods lead to from `roots`.

    Not what classes, modules and the globals of functions lead to: that is the whole interpreter, from any object.
    """
    seen: dict[int, object] = {}  # holds what it has seen, so that no id comes again
    waiting: list[object] = list(roots)
    while waiting:
        it = waiting.pop()
        if id(it) in seen or isinstance(it, type | types.ModuleType):
            continue
        seen[id(it)] = it
        yield it
        if isinstance(it, types.FunctionType):
            waiting += [it.__closure__, it.__defaults__, it.__kwdefaults__, vars(it)]
        else:
            waiting += gc.get_referents(it)


def found(secrets: Iterable[str | bytes], *roots: object) -> set[str | bytes]:
    """Those of `secrets` that can be reached from `roots`, as a text, in bytes or in a path."""
    things = list(reachable(*roots))
    texts = [str(it) for it in things if isinstance(it, str | Path)]
    contents = [bytes(it) for it in things if isinstance(it, bytes | bytearray | memoryview)]
    where: dict[type, list[Any]] = {str: texts, bytes: contents}
    return {secret for secret in secrets if any(secret in it for it in where[type(secret)])}


@pytest.fixture
def experiment(tmp_path: Path) -> protocol.Protocol:
    """Two stages: ants and bees, then cats and dogs."""
    folder = photo_folders.make(tmp_path / "photos", OLD | NEW)
    return protocol.build(folder, [2, 2])


def test_promise_5_a_stage_cannot_reach_the_photos_of_another(experiment: protocol.Protocol) -> None:
    old = [path.name for path, _ in experiment.photos([0], "train")] + list(OLD)
    held_out = [path.name for part in ("validation", "test") for path, _ in experiment.photos([1], part)]
    stage = experiment.training(1)
    assert len(found([path.name for path, _ in experiment.photos([1], "train")], stage)) == len(stage)
    assert found([*old, *held_out], stage) == set()


def test_promise_5_neither_do_its_loader_its_batches_and_their_threads(experiment: protocol.Protocol) -> None:
    with loader_of(experiment.training(0)).ahead(range(3)) as earlier:
        list(earlier)
    stage = experiment.training(1)
    own = loader_of(stage)
    with own.ahead(range(9)) as batches, loader.in_order(stage, Preprocessing(16, 16), size=2) as centred:
        seen = [own, own.batch, batches, next(batches), centred, next(centred)]
        old = [path.name for path, _ in experiment.photos([0], "train")] + list(OLD)
        assert found(old, *seen) == set()
        assert found(["cats_000.jpg"], own)
        assert sum(isinstance(it, Image.Image) for it in reachable(own)) <= len(stage)


def test_promise_5_nor_do_the_modules_keep_photos_for_the_next_stage(experiment: protocol.Protocol) -> None:
    for number in (0, 1):
        with loader_of(experiment.training(number)).ahead(range(3)) as batches:
            list(batches)
    values = [value for module in MODULES for name, value in vars(module).items() if not name.startswith("__")]
    names = [path.name for path, _ in experiment.photos([0, 1], "train")]
    assert found(names, *values) == set()
    assert not any(isinstance(it, Image.Image) for it in reachable(*values))


def test_promise_5_holds_for_photos_in_memory_too() -> None:
    old, new = [photo_folders.photo(i) for i in range(4)], [photo_folders.photo(i) for i in range(10, 14)]
    stage_of(old)
    stage = stage_of(new, number=1)
    assert found(new, stage) == set(new)
    assert found(old, stage) == set()


def test_nothing_rides_along_with_what_a_stage_is_made_of() -> None:
    class Bytes(bytes):
        catalogue = ""

    class Name(str):
        catalogue = ""

        def __str__(self) -> str:
            return "this"

    photos = [Bytes(photo_folders.photo(i)) for i in range(4)]
    names = (Name("this"), Name("that"))
    photos[0].catalogue = names[0].catalogue = "of old photos"
    stage = TrainingStage(0, names, photos, [0, 0, 1, 1])  # type: ignore[arg-type] # lists, which others could change
    assert found(["of old photos"], stage) == set()
    assert {type(it) for it in (stage.photos, stage.categories, stage.labels)} == {tuple}
    assert {type(photo) for photo in stage.photos} == {bytes}


@pytest.mark.parametrize("way", ["attribute", "closure", "default", "method", "generator"])
def test_the_walk_finds_what_is_hidden(way: str) -> None:
    def hidden(secret: list[str]) -> object:
        def default(secret: list[str] = secret) -> list[str]:
            return secret

        ways = {
            "attribute": types.SimpleNamespace(deep=[{"er": secret}]),
            "closure": lambda: secret,
            "default": default,
            "method": secret.append,
            "generator": (text for text in secret),
        }
        return ways[way]

    assert found(["old.jpg"], hidden(["old.jpg"])) == {"old.jpg"}


@pytest.mark.parametrize("name", ["photos", "labels", "catalogue"])
def test_a_stage_is_not_changed_after_it_was_made(name: str) -> None:
    stage = stage_of(photo_folders.photo(i) for i in range(4))
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        setattr(stage, name, ())
    assert not hasattr(stage, "__dict__")


@pytest.mark.parametrize(
    ("categories", "labels", "field"),
    [(("a",), (0, 0), "categories"), (("a", "b"), (0, 0, 1), "photos"), (("a", "b"), (0, 0), "photos")],
    ids=["one category", "a category with one photo", "a category with none"],
)
def test_a_stage_without_positives_or_negatives_is_refused(
    categories: tuple[str, ...], labels: tuple[int, ...], field: str
) -> None:
    with pytest.raises(InvalidField) as error:
        TrainingStage(0, categories, tuple(b"" for _ in labels), labels)
    assert error.value.field == field
    assert error.value.expected == "at least 2"


@pytest.mark.parametrize("labels", [(0, 0, 1), (0, 0, 1, 2), (0, 0, -1, 1)], ids=["too few", "too high", "negative"])
def test_labels_that_do_not_fit_are_a_mistake_of_the_caller(labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="labels"):
        TrainingStage(0, ("a", "b"), (b"",) * 4, labels)


@pytest.mark.parametrize("as_file", [True, False], ids=["a file", "bytes"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [(photo_folders.photo(0)[:300], ImageUnreadable), (b"", ImageUnreadable), (jpeg_of_many_scans(), ImageTooLarge)],
    ids=["cut off", "empty", "a bomb"],
)
def test_a_bad_photo_is_a_typed_error_with_its_name(
    content: bytes, kind: type[InvalidInput], as_file: bool, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(content)
    good = [photo_folders.photo(i) for i in range(3)]
    stage = stage_of([bad if as_file else content, *good], number=3)
    with pytest.raises(kind) as error:
        stage.image(0)
    assert error.value.message.startswith(f"{bad}: " if as_file else "photo 0 of stage 3: ")
    assert error.value.field == "photos"


def test_a_photo_that_went_away_is_a_typed_error_with_its_name(tmp_path: Path) -> None:
    gone = tmp_path / "gone.jpg"
    with pytest.raises(ImageUnreadable, match=r"gone\.jpg: No such file"):
        stage_of([gone, *[photo_folders.photo(i) for i in range(3)]]).image(0)


def test_printing_a_stage_prints_no_photos() -> None:
    assert len(repr(stage_of(photo_folders.photo(i) for i in range(4)))) < 200
