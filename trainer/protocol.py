"""The protocol of an experiment: which photos of a folder train, validate and test, in which stage.

The folder has a folder of photos for each category. Everything follows by rule from the names in it, so that two
machines with the same folder run the same experiment; `Protocol.digest` says whether they did.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np

from indexer.errors import InvalidField, InvalidInput
from indexer.images import open_rgb
from trainer import photos
from trainer.lookahead import ahead
from trainer.training_data import TrainingStage

Part = Literal["train", "validation", "test"]

_LEAST: Final = 2  # photos of a category, to train on and to test with: one alone has no other to be near to
_LISTED: Final = 20  # names in one message
_CHECK_SIDE: Final = 256  # pixels; a JPEG is read whole to be decoded at a part of its size, which is fast


@dataclass(frozen=True)
class Split:
    """Which photos of a category train, validate and test.

    by "order": in the order of file names the first `train` of them train and the others test. Of those that train, the
    last `validation` are held out, for settings and checkpoints to be chosen on; two at least are left to train on.
    by "prefix": the file name begins with "train", "val" or "test" and two underscores, and the shares mean nothing.
    """

    by: Literal["order", "prefix"] = "order"
    train: float = 0.6  # share of a category's photos
    validation: float = 0.2  # share of those that train; 0 holds none out

    def __post_init__(self) -> None:
        if self.by not in ("order", "prefix"):
            raise InvalidField("unknown rule of a split", field="split", got=self.by, expected="order or prefix")
        if not (0 < self.train < 1 and 0 <= self.validation < 1):
            raise InvalidField(
                "the shares of a split are out of range",
                field="split",
                got=f"train {self.train}, validation {self.validation}",
                expected="train between 0 and 1, validation from 0 to less than 1",
            )

    def of(self, names: Sequence[str]) -> dict[Part, tuple[str, ...]]:
        """The parts of one category's photos, from their names in order. Errors: InvalidField."""
        return self._by_prefix(names) if self.by == "prefix" else self._by_order(names)

    def _by_order(self, names: Sequence[str]) -> dict[Part, tuple[str, ...]]:
        learned = _share(len(names), self.train)
        trains = max(learned - _share(learned, self.validation), min(learned, _LEAST))
        return {
            "train": tuple(names[:trains]),
            "validation": tuple(names[trains:learned]),
            "test": tuple(names[learned:]),
        }

    def _by_prefix(self, names: Sequence[str]) -> dict[Part, tuple[str, ...]]:
        prefixes: dict[str, Part] = {"train": "train", "val": "validation", "test": "test"}
        parts: dict[Part, list[str]] = {part: [] for part in prefixes.values()}
        for name in names:
            prefix = Path(name).name.split("__")[0]
            if prefix not in prefixes:
                expected = "train__, val__ or test__ at the beginning of the file's name"
                raise InvalidField(f"{name} says no part to belong to", field="split", got=prefix, expected=expected)
            parts[prefixes[prefix]].append(name)
        return {part: tuple(members) for part, members in parts.items()}


def _share(count: int, share: float) -> int:
    return math.floor(count * share + 1e-9)  # 0.29 * 100 is a little less than 29


@dataclass(frozen=True)
class Category:
    """One category's photos: paths below the protocol's folder, with "/"."""

    name: str
    train: tuple[str, ...] = field(repr=False)
    validation: tuple[str, ...] = field(repr=False)
    test: tuple[str, ...] = field(repr=False)

    def part(self, part: Part) -> tuple[str, ...]:
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


@dataclass(frozen=True)
class Protocol:
    """Stages of categories, in the order in which they are learned."""

    folder: Path
    stages: tuple[tuple[Category, ...], ...]
    order: str  # of the categories: "name" or "shuffled:<seed>"
    split: Split

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the rules and of what came of them: every name, in its stage and part.

        Where the folder lies does not matter. What the files hold is `check_photos`'s to say.
        """
        content = {
            "order": self.order,
            "split": asdict(self.split),
            "stages": [[asdict(c) for c in s] for s in self.stages],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def training(self, stage: int) -> TrainingStage:
        """The training photos of one stage, and of no other."""
        return self._training(stage, self.stages[stage])

    def joint_training(self, stage: int) -> TrainingStage:
        """Those of all stages up to one, for a reference that is allowed to keep old photos."""
        return self._training(stage, self._until(stage))

    def photos(self, stages: Sequence[int], part: Part) -> list[tuple[Path, str]]:
        """The photos of one part of these stages, each with the name of its category."""
        categories = [category for stage in stages for category in self.stages[stage]]
        return [(self.folder / name, category.name) for category in categories for name in category.part(part)]

    def _until(self, stage: int) -> tuple[Category, ...]:
        return tuple(category for earlier in self.stages[: stage + 1] for category in earlier)

    def _training(self, number: int, categories: tuple[Category, ...]) -> TrainingStage:
        pairs = [(self.folder / name, label) for label, category in enumerate(categories) for name in category.train]
        names = tuple(category.name for category in categories)
        return TrainingStage(number, names, tuple(path for path, _ in pairs), tuple(label for _, label in pairs))


def halves(folder: Path, *, order: str = "name", split: Split | None = None) -> Protocol:
    """One-task: half of the categories, then the other half (mutual, Tab. 1). Errors: those of `build`."""
    count = len(_category_names(folder))
    return build(folder, [count - count // 2, count // 2], order=order, split=split)


def build(folder: Path, sizes: Sequence[int], *, order: str = "name", split: Split | None = None) -> Protocol:
    """Stages of so many categories each; categories beyond their sum stay unused.

    Errors: InvalidField when the folder has too few categories, a category too few photos, or a photo no category; when
    a size, the order or the split is not valid.
    """
    split = split or Split()
    names = _category_names(folder)
    if any(size < 2 for size in sizes) or not sizes or sum(sizes) > len(names):
        raise InvalidField(
            f"{folder} does not give stages of {', '.join(map(str, sizes))} categories",
            field="categories",
            got=f"{len(names)} categories",
            expected=f"at least 2 in each stage, and {sum(sizes)} in all",
        )
    found = _photos_by_category(folder)
    ordered = iter(_ordered(names, order))
    stages = tuple(
        tuple(_category(name, found.get(name, []), split) for name in itertools.islice(ordered, size)) for size in sizes
    )
    return Protocol(folder, stages, order, split)


def _category_names(folder: Path) -> list[str]:
    """The folders in `folder`, in order; hidden ones left out."""
    if not folder.is_dir():
        raise InvalidField(f"{folder} is no folder", field="folder", got=folder, expected="a folder of categories")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise InvalidField(
            f"{folder} has too few categories to learn to tell apart",
            field="categories",
            got=f"{len(names)} folders",
            expected="at least 2 folders of photos",
        )
    return names


def _photos_by_category(folder: Path) -> dict[str, list[str]]:
    """The names of the photos below `folder`, with "/", in order."""
    found: dict[str, list[str]] = {}
    for path in photos.find(folder):
        name = path.relative_to(folder)
        if len(name.parts) == 1:
            raise InvalidField(
                f"{path} belongs to no category",
                field="folder",
                got=name,
                expected="each photo in the folder of its category",
            )
        found.setdefault(name.parts[0], []).append(name.as_posix())
    return found


def _ordered(names: list[str], order: str) -> list[str]:
    rule, _, seed = order.partition(":")
    if order == "name":
        return names
    if rule == "shuffled" and seed.isascii() and seed.isdigit():
        return [names[i] for i in np.random.default_rng(int(seed)).permutation(len(names))]
    raise InvalidField("unknown order of categories", field="order", got=order, expected="name or shuffled:<seed>")


def _category(category: str, names: Sequence[str], split: Split) -> Category:
    parts = split.of(names)
    few = [part for part in ("train", "test") if len(parts[part]) < _LEAST]
    if few:
        raise InvalidField(
            f"category {category!r} has too few photos to {' and to '.join(few)}",
            field="photos",
            got=f"{len(names)} photos, of which " + ", ".join(f"{part} {len(of)}" for part, of in parts.items()),
            expected=f"at least {_LEAST} each",
        )
    return Category(category, parts["train"], parts["validation"], parts["test"])


def check_photos(
    protocol: Protocol, *, workers: int = 2, progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """Decodes every photo of the protocol once; `progress` hears how many are done, of how many.

    Gives the SHA-256, in hexadecimal, of all that the files hold.

    Errors: InvalidField that names the photos that cannot be read or decoded, and why.
    """
    paths = [protocol.folder / name for name in _names(protocol)]
    digest, bad = hashlib.sha256(), list[str]()
    with ahead(_checked, paths, workers=workers, depth=4 * workers) as results:
        for done, (content, problem) in enumerate(results, start=1):
            digest.update(content)
            if problem:
                bad.append(problem)
            progress(done, len(paths))
    if bad:
        raise InvalidField(
            f"{len(bad)} of {len(paths)} photos cannot be used: {_listed(bad)}",
            field="photos",
            got=bad[0],
            expected="photos that can be decoded",
        )
    return digest.hexdigest()


def _names(protocol: Protocol) -> Iterator[str]:
    for stage in protocol.stages:
        for category in stage:
            yield from (*category.train, *category.validation, *category.test)


def _checked(path: Path) -> tuple[bytes, str]:
    """The SHA-256 of the file's content, and what is wrong with it, or nothing."""
    try:
        data = path.read_bytes()
        open_rgb(data, min_side=_CHECK_SIDE)
    except InvalidInput as error:
        return b"", f"{path}: {error.message}"
    except OSError as error:
        return b"", f"{path}: {error.strerror}"
    return hashlib.sha256(data).digest(), ""


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "; ".join(names[:_LISTED]) + more
