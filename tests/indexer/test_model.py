from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import ModelDamaged
from indexer.files import sweep
from indexer.model import Manifest, Preprocessing, load_manifest, model_id, publish_model

SPEC = Preprocessing(image_size=32, resize_size=36)


def publish(
    parent: Path, content: bytes = b"a graph", spec: Preprocessing = SPEC, source: dict[str, str] | None = None
) -> Manifest:
    def write(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(content)
        (folder / "weights.safetensors").write_bytes(b"weights")

    return publish_model(
        parent, write, backbone="tiny", dimension=8, preprocessing=spec, precision="int8", stages=2, source=source
    )


def test_a_published_model_is_loaded_as_it_was_described(tmp_path: Path) -> None:
    published = publish(tmp_path, source={"weights": "made here"})
    folder = tmp_path / published.id[:16]
    assert load_manifest(folder) == published
    assert published.source == {"weights": "made here"}
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "weights.safetensors", "manifest.json"}


def test_the_id_is_of_content_and_preprocessing_and_of_nothing_else(tmp_path: Path) -> None:
    first = publish(tmp_path / "a")
    assert publish(tmp_path / "b", source={"weights": "elsewhere"}).id == first.id
    assert publish(tmp_path / "c", content=b"another graph").id != first.id
    assert publish(tmp_path / "d", spec=Preprocessing(32, 37)).id != first.id
    assert first.id == model_id(first.files["model.onnx"], SPEC)


def test_publishing_a_model_again_changes_nothing_and_returns_what_is_there(tmp_path: Path) -> None:
    first = publish(tmp_path, source={"run": "1"})
    manifest = (tmp_path / first.id[:16] / "manifest.json").read_bytes()
    assert publish(tmp_path, source={"run": "2"}) == first
    assert (tmp_path / first.id[:16] / "manifest.json").read_bytes() == manifest
    assert [path.name for path in tmp_path.iterdir()] == [first.id[:16]]


def test_a_writer_that_fails_publishes_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        publish_model(tmp_path, write, backbone="tiny", dimension=8, preprocessing=SPEC)
    assert not list(tmp_path.iterdir())


def test_a_model_without_its_graph_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.onnx"):
        publish_model(tmp_path, lambda _: None, backbone="tiny", dimension=8, preprocessing=SPEC)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_publisher_left_is_swept_and_models_stay(tmp_path: Path) -> None:
    published = publish(tmp_path)
    (tmp_path / ".staging-model-x").mkdir()
    (tmp_path / ".staging-model-x" / "model.onnx").write_bytes(b"half")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [published.id[:16]]


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors"])
def test_an_altered_file_is_damage(tmp_path: Path, name: str) -> None:
    folder = tmp_path / publish(tmp_path).id[:16]
    content = bytearray((folder / name).read_bytes())
    content[0] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelDamaged, match=f"{name} was altered") as caught:
        load_manifest(folder)
    assert caught.value.got != caught.value.expected
    load_manifest(folder, verify=False)


@pytest.mark.parametrize("verify", [True, False], ids=["verified", "not verified"])
@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "manifest.json"])
def test_a_missing_file_is_damage(tmp_path: Path, name: str, verify: bool) -> None:
    folder = tmp_path / publish(tmp_path).id[:16]
    (folder / name).unlink()
    with pytest.raises(ModelDamaged, match=f"{name} is missing"):
        load_manifest(folder, verify)


def _set(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: {**manifest, **fields}


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: {key: value for key, value in manifest.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_set(format=2), "format version 1 is expected, got 2", id="unknown version"),
        pytest.param(_without("format"), "format version 1 is expected, got None", id="no version"),
        pytest.param(lambda _: {"name": "everlook", "version": "1.0"}, "format version", id="foreign object"),
        pytest.param(lambda _: ["a", "list"], "format version", id="list"),
        pytest.param(lambda _: None, "format version", id="null"),
        pytest.param(_without("dimension"), "dimension is missing", id="field missing"),
        pytest.param(_set(dimension="512"), "dimension is missing or of the wrong type", id="field of the wrong type"),
        pytest.param(_set(dimension=True), "dimension is missing or of the wrong type", id="truth value for a number"),
        pytest.param(_set(dimension=0), "dimension >= 1", id="no dimension"),
        pytest.param(_set(precision="int4"), "precision", id="unknown precision"),
        pytest.param(_set(preprocessing={"image_size": 32}), "resize_size is missing", id="preprocessing incomplete"),
        pytest.param(_set(preprocessing={"image_size": 32, "resize_size": 8}), "image_size", id="crop out of photo"),
        pytest.param(_set(preprocessing={"image_size": 32, "resize_size": 40}), "id", id="other preprocessing"),
        pytest.param(_set(id="0" * 64), "id", id="other id"),
        pytest.param(_set(files={"../model.onnx": "0" * 64}), "own folder", id="file elsewhere"),
        pytest.param(_set(files={}), "model.onnx", id="no files"),
    ],
)
def test_a_manifest_that_says_something_else_is_damage(tmp_path: Path, change: Any, message: str) -> None:
    folder = tmp_path / publish(tmp_path).id[:16]
    changed = change(json.loads((folder / "manifest.json").read_text()))
    (folder / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(ModelDamaged, match=message):
        load_manifest(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut off", "no text", "deep"]
)
def test_a_manifest_that_is_no_json_is_damage(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / publish(tmp_path).id[:16]
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ModelDamaged, match=r"manifest\.json"):
        load_manifest(folder)


@pytest.mark.parametrize("sizes", [(0, 8), (9, 8), (-1, 8)])
def test_a_crop_larger_than_the_resized_photo_cannot_be_described(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="image_size"):
        Preprocessing(*sizes)
