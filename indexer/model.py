"""A published model: a folder with its ONNX graph, a manifest, and whatever else the trainer keeps with it.

    <id[:16]>/model.onnx      input `images` uint8 (N, S, S, 3) RGB; output `embeddings` float32 (N, D), of unit length
              manifest.json   what it is, and the SHA-256 of every other file
              ...             such as weights.safetensors

Cast, normalisation and layout are inside the graph, so that the ONNX content and the preprocessing before it settle
what vector a photo gets: their hash is the model's identity. Vectors of two models never compare.

| crash at this step               | found so at restart                                                      |
|----------------------------------|--------------------------------------------------------------------------|
| while `write` fills its folder   | `.staging-*`, which nobody reads; `files.sweep` removes it               |
| while files move and are fsynced | two such folders                                                         |
| after the rename                 | the whole model; publishing it again finds it and changes nothing        |
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from indexer.errors import ModelDamaged
from indexer.files import STAGING, publish_folder, sha256_file, write_json

ONNX: Final = "model.onnx"
MANIFEST: Final = "manifest.json"

_FORMAT: Final = 1
_PROCEDURE: Final = "Hamming, centre crop, 1"  # changes when `images.preprocess` gives other pixels for the same photo
_PRECISIONS: Final = ("fp32", "int8")


@dataclass(frozen=True)
class Preprocessing:
    """The photo's shorter side is resized to `resize_size` pixels; a square of `image_size` is cut from the centre."""

    image_size: int
    resize_size: int

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize_size:
            raise ValueError(f"image_size must be at least 1 and at most resize_size, got {self}")


@dataclass(frozen=True)
class Manifest:
    """What a model is. `source` holds free facts that are shown and do not matter to the identity."""

    id: str  # SHA-256 in hexadecimal
    backbone: str
    dimension: int
    preprocessing: Preprocessing
    precision: str  # "fp32" or "int8"
    stages: int  # how many it has learned; 0 is a pretrained backbone
    head: str
    created_at: float  # seconds since 1970
    files: Mapping[str, str]  # name -> SHA-256, for all files but the manifest
    source: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.dimension < 1 or self.stages < 0 or self.precision not in _PRECISIONS:
            raise ValueError(f"a model has dimension >= 1, stages >= 0 and a precision of {_PRECISIONS}; got {self}")
        if ONNX not in self.files:
            raise ValueError(f"a model has {ONNX} among its files")
        if self.id != model_id(self.files[ONNX], self.preprocessing):
            raise ValueError(f"the id {self.id} is not that of its content and preprocessing")


def model_id(onnx_sha256: str, preprocessing: Preprocessing) -> str:
    """The identity: a hash of the ONNX file's content and of the preprocessing before it."""
    content = {"onnx": onnx_sha256, "procedure": _PROCEDURE, **asdict(preprocessing)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def publish_model(
    parent: Path,
    write: Callable[[Path], None],
    *,
    backbone: str,
    dimension: int,
    preprocessing: Preprocessing,
    precision: str = "fp32",
    stages: int = 0,
    head: str = "",
    source: Mapping[str, str] | None = None,
) -> Manifest:
    """Publishes the files that `write` puts into the empty folder it is given, as `parent/<id[:16]>`.

    Publishing a model that is there already changes nothing, and returns the manifest that is there.
    Errors: ModelDamaged when the one that is there is damaged; ValueError when a fact is out of range or model.onnx was
    not written; OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{STAGING}model-", dir=parent) as written:
        write(Path(written))
        hashes = {path.name: sha256_file(path) for path in sorted(Path(written).iterdir())}
        if ONNX not in hashes:
            raise ValueError(f"{ONNX} was not written")
        manifest = Manifest(
            id=model_id(hashes[ONNX], preprocessing),
            backbone=backbone,
            dimension=dimension,
            preprocessing=preprocessing,
            precision=precision,
            stages=stages,
            head=head,
            created_at=time.time(),
            files=hashes,
            source=dict(source or {}),
        )
        final = parent / manifest.id[:16]
        try:
            with publish_folder(final) as staging:
                for name in hashes:
                    Path(written, name).rename(staging / name)
                write_json(staging / MANIFEST, {"format": _FORMAT, **asdict(manifest)})
        except OSError:
            if not final.exists():
                raise
            return load_manifest(final)
    return manifest


def load_manifest(folder: Path, verify: bool = True) -> Manifest:
    """The manifest of a published model; with `verify`, after comparing every file with its SHA-256.

    Errors: ModelDamaged when a file is missing or altered, or the manifest is none, or of an unknown format version.
    """
    try:
        manifest = _parse(json.loads((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDamaged(
            f"{folder / MANIFEST} is missing or not a manifest: {error}", got=error, expected="a model's manifest"
        ) from error
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelDamaged(f"{path} is missing", got="no file", expected=f"a file of sha256 {expected}")
        got = sha256_file(path) if verify else expected
        if got != expected:
            raise ModelDamaged(f"{path} was altered", got=f"sha256 {got}", expected=f"sha256 {expected}")
    return manifest


def _parse(raw: Any) -> Manifest:
    """Errors: ValueError, which says what is wrong."""
    if not isinstance(raw, dict) or raw.get("format") != _FORMAT:
        version = raw.get("format") if isinstance(raw, dict) else None
        raise ValueError(f"format version {_FORMAT} is expected, got {version!r}")

    def field(values: dict[str, Any], name: str, *kinds: type) -> Any:
        value = values.get(name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"{name} is missing or of the wrong type: {value!r}")
        return value

    def texts(name: str) -> dict[str, str]:
        values = field(raw, name, dict)
        return {key: field(values, key, str) for key in values}

    files = texts("files")
    if foreign := [name for name in files if Path(name).name != name]:
        raise ValueError(f"files lie in the model's own folder, got {foreign[0]!r}")
    sizes = field(raw, "preprocessing", dict)
    return Manifest(
        id=field(raw, "id", str),
        backbone=field(raw, "backbone", str),
        dimension=field(raw, "dimension", int),
        preprocessing=Preprocessing(field(sizes, "image_size", int), field(sizes, "resize_size", int)),
        precision=field(raw, "precision", str),
        stages=field(raw, "stages", int),
        head=field(raw, "head", str),
        created_at=float(field(raw, "created_at", int, float)),
        files=files,
        source=texts("source"),
    )
