"""Protocols of experiments."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.errors import InvalidField
from tests.trainer import photo_folders
from trainer.protocol import Part, Protocol, Split, build, check_photos, halves

PARTS: tuple[Part, ...] = ("train", "validation", "test")
COUNTS = {f"c{i}": 10 for i in range(8)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight categories of ten photos. Read only."""
    return photo_folders.make(tmp_path_factory.mktemp("protocol") / "photos", COUNTS)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "photos"))


def names(protocol: Protocol) -> list[list[str]]:
    return [[category.name for category in stage] for stage in protocol.stages]


def test_halves_learn_half_of_the_categories_then_the_others(made: Path) -> None:
    assert names(halves(made)) == [["c0", "c1", "c2", "c3"], ["c4", "c5", "c6", "c7"]]


def test_stages_have_the_sizes_that_are_asked_for(made: Path) -> None:
    assert names(build(made, [2, 2, 2])) == [["c0", "c1"], ["c2", "c3"], ["c4", "c5"]]


def test_a_shuffled_order_is_fixed_by_its_seed(made: Path) -> None:
    first, again, other = (names(build(made, [4, 4], order=f"shuffled:{seed}")) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(name for stage in first for name in stage) == list(COUNTS)
    assert first != names(build(made, [4, 4]))


@pytest.mark.parametrize(
    ("photos", "split", "sizes"),
    [
        (10, Split(), (5, 1, 4)),
        (10, Split(validation=0), (6, 0, 4)),
        (10, Split(train=0.5, validation=0.5), (3, 2, 5)),
        (30, Split(), (15, 3, 12)),
        (100, Split(train=0.29, validation=0), (29, 0, 71)),
        (4, Split(validation=0.9), (2, 0, 2)),
        (5, Split(validation=0.9), (2, 1, 2)),
    ],
    ids=str,
)
def test_the_first_by_name_train_the_last_of_these_validate_the_rest_test(
    photos: int, split: Split, sizes: tuple[int, int, int]
) -> None:
    ordered = [f"a/{i:03d}.jpg" for i in range(photos)]
    parts = split.of(ordered)
    assert tuple(len(parts[part]) for part in PARTS) == sizes
    assert [name for part in PARTS for name in parts[part]] == ordered


def test_prefixes_of_file_names_can_say_the_part() -> None:
    parts = Split(by="prefix").of(["a/test__1.jpg", "a/train__1.jpg", "a/train__2.jpg", "a/val__1.jpg"])
    assert parts == {
        "train": ("a/train__1.jpg", "a/train__2.jpg"),
        "validation": ("a/val__1.jpg",),
        "test": ("a/test__1.jpg",),
    }


def test_each_photo_is_in_one_part_of_one_stage(made: Path) -> None:
    protocol = build(made, [4, 2, 2])
    paths = [path for part in PARTS for path, _ in protocol.photos([0, 1, 2], part)]
    assert len(paths) == len(set(paths)) == 80
    assert all(path.is_file() and path.parent.name == category for path, category in protocol.photos([1], "test"))


def test_a_stage_trains_on_its_own_training_photos(made: Path) -> None:
    protocol = build(made, [4, 2, 2])
    stage = protocol.training(1)
    assert (stage.number, stage.categories) == (1, ("c4", "c5"))
    assert list(zip(stage.photos, (stage.categories[label] for label in stage.labels), strict=True)) == protocol.photos(
        [1], "train"
    )


def test_joint_training_has_those_of_the_earlier_stages_too(made: Path) -> None:
    protocol = build(made, [4, 2, 2])
    stage = protocol.joint_training(1)
    assert stage.categories == ("c0", "c1", "c2", "c3", "c4", "c5")
    assert list(stage.photos) == [path for path, _ in protocol.photos([0, 1], "train")]
    assert stage.labels == tuple(label for label in range(6) for _ in range(5))


def test_the_digest_does_not_depend_on_where_the_folder_lies(made: Path, folder: Path) -> None:
    assert build(made, [4, 4]).digest == build(folder, [4, 4]).digest
    assert check_photos(build(made, [4, 4])) == check_photos(build(folder, [4, 4]))


def test_the_digest_depends_on_all_that_the_protocol_says(made: Path, folder: Path) -> None:
    (folder / "c0" / "c0_009.jpg").rename(folder / "c0" / "c0_010.jpg")
    protocols = [
        build(made, [4, 4]),
        build(made, [4, 2]),
        build(made, [2, 2, 2, 2]),
        build(made, [4, 4], order="shuffled:3"),
        build(made, [4, 4], split=Split(train=0.5)),
        build(made, [4, 4], split=Split(validation=0.4)),
        build(folder, [4, 4]),
    ]
    assert len({protocol.digest for protocol in protocols}) == len(protocols)


def test_hidden_files_and_other_files_are_not_in_the_way(folder: Path, made: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / ".cache" / "thumb.jpg").write_bytes(photo_folders.photo(0))
    (folder / "LICENCE.txt").write_text("free")
    (folder / "c0" / "notes.txt").write_text("nice")
    assert build(folder, [4, 4]).digest == build(made, [4, 4]).digest


def one_category(folder: Path) -> None:
    for name in list(COUNTS)[1:]:
        shutil.rmtree(folder / name)


def few_photos(left: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for path in sorted((folder / "c3").iterdir())[left:]:
            path.unlink()

    return spoil


def stray_photo(folder: Path) -> None:
    (folder / "stray.jpg").write_bytes(photo_folders.photo(0))


@pytest.mark.parametrize(
    ("spoil", "field", "says"),
    [
        (shutil.rmtree, "folder", "is no folder"),
        (one_category, "categories", "too few categories"),
        (few_photos(0), "photos", "'c3' has too few photos to train and to test"),
        (few_photos(1), "photos", "'c3' has too few photos to train and to test"),
        (few_photos(3), "photos", "'c3' has too few photos to train"),
        (stray_photo, "folder", "stray.jpg belongs to no category"),
    ],
    ids=[
        "no folder",
        "one category",
        "an empty category",
        "one photo",
        "three photos",
        "a photo beside the categories",
    ],
)
def test_a_folder_that_cannot_be_learned_from_is_refused(
    spoil: Callable[[Path], None], field: str, says: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(InvalidField, match=says) as error:
        build(folder, [4, 4])
    assert error.value.field == field
    assert error.value.got
    assert error.value.expected


@pytest.mark.parametrize("sizes", [[], [8, 1], [9], [4, 5], [4, -2], [0, 8]], ids=str)
def test_stages_that_the_folder_does_not_give_are_refused(sizes: list[int], made: Path) -> None:
    with pytest.raises(InvalidField, match="does not give stages") as error:
        build(made, sizes)
    assert error.value.got == "8 categories"


@pytest.mark.parametrize("first", [1, 7, 8, 100])
def test_a_task_that_leaves_a_stage_without_two_categories_is_refused(first: int, made: Path) -> None:
    with pytest.raises(InvalidField, match="does not give stages"):
        build(made, [first, 8 - first])


@pytest.mark.parametrize("order", ["", "random", "shuffled", "shuffled:", "shuffled:-1", "shuffled:x", "shuffled:²"])
def test_an_unknown_order_is_refused(order: str, made: Path) -> None:
    with pytest.raises(InvalidField) as error:
        build(made, [4, 4], order=order)
    assert error.value.field == "order"


@pytest.mark.parametrize("split", [{"by": "luck"}, {"train": 0.0}, {"train": 1.0}, {"validation": 1.0}], ids=str)
def test_an_unknown_split_is_refused(split: dict[str, str | float]) -> None:
    with pytest.raises(InvalidField) as error:
        Split(**split)  # type: ignore[arg-type] # wrong values are what is tested
    assert error.value.field == "split"


def test_a_file_name_without_a_known_prefix_is_refused(made: Path) -> None:
    with pytest.raises(InvalidField, match=r"c0_000\.jpg says no part"):
        build(made, [4, 4], split=Split(by="prefix"))


def test_all_corrupt_photos_are_found_before_work_begins(folder: Path) -> None:
    protocol = build(folder, [4, 2])
    (folder / "c1" / "c1_000.jpg").write_bytes(photo_folders.photo(0)[:200])
    (folder / "c5" / "c5_009.jpg").write_bytes(b"")
    (folder / "c3" / "c3_004.jpg").unlink()
    (folder / "c7" / "c7_000.jpg").write_bytes(b"this category is not in the protocol")
    heard: list[tuple[int, int]] = []
    with pytest.raises(InvalidField, match="3 of 60 photos") as error:
        check_photos(protocol, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 60) for done in range(1, 61)]
    assert all(name in error.value.message for name in ("c1_000.jpg: ", "c5_009.jpg: ", "c3_004.jpg: "))
    assert error.value.field == "photos"


def test_a_message_names_twenty_corrupt_photos_and_counts_the_others(folder: Path) -> None:
    protocol = build(folder, [4, 2])
    for path in [*(folder / "c0").iterdir(), *(folder / "c1").iterdir(), *(folder / "c2").iterdir()]:
        path.write_bytes(b"")
    with pytest.raises(InvalidField, match=r"30 of 60 .*; and 10 more") as error:
        check_photos(protocol)
    assert error.value.message.count(".jpg") == 20


def test_the_hash_of_the_photos_tells_changed_content(folder: Path) -> None:
    protocol = build(folder, [4, 4])
    before = check_photos(protocol, workers=3)
    assert check_photos(protocol, workers=1) == before
    (folder / "c0" / "c0_000.jpg").write_bytes(photo_folders.photo(99))
    assert check_photos(protocol) != before
    assert protocol.digest == build(folder, [4, 4]).digest


def test_the_birds_follow_the_usual_protocol(cub: Path) -> None:
    protocol = build(cub, [100, 25, 25, 25, 25])
    assert [len(stage) for stage in protocol.stages] == [100, 25, 25, 25, 25]
    first = protocol.stages[0][0]
    assert first.name == "001.Black_footed_Albatross"
    learned = len(first.train) + len(first.validation)
    assert learned == int(0.6 * (learned + len(first.test)) + 1e-9)
    assert names(halves(cub))[1][0].startswith("101.")


def test_the_groceries_say_their_parts_themselves(grocery: Path) -> None:
    protocol = build(grocery, [41, 40], order="shuffled:0", split=Split(by="prefix"))
    assert [len(protocol.photos([0, 1], part)) for part in PARTS] == [2640, 296, 2485]
