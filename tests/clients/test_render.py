"""The catalogue that the demo renders: the same for a seed, growable, and fine-grained."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clients.demo.design import Family, traits_of
from clients.demo.mesh import Material, Mesh, Part
from clients.demo.raster import Camera, rasterise
from clients.demo.render import (
    FAMILIES,
    category_name,
    render_catalogue,
    render_category,
    render_photo,
)
from clients.demo.textures import plain


def _pixels(photo: Image.Image) -> NDArray[np.int16]:
    return np.asarray(photo, np.int16)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


@pytest.mark.parametrize("category", range(len(FAMILIES)), ids=[family.name for family in FAMILIES])
def test_a_photo_is_an_rgb_picture_that_shows_something(category: int) -> None:
    photo = render_photo(category, 0, size=96)
    assert (photo.mode, photo.size) == ("RGB", (96, 96))
    assert _pixels(photo).std() > 12


def test_a_photo_depends_on_seed_category_and_number_alone() -> None:
    first = _pixels(render_photo(3, 5, seed=7, size=96))
    render_photo(11, 2, seed=7, size=96)
    assert np.array_equal(first, _pixels(render_photo(3, 5, seed=7, size=96)))
    for other in ((4, 5, 7), (3, 6, 7), (3, 5, 8)):
        category, photo, seed = other
        assert np.abs(first - _pixels(render_photo(category, photo, seed=seed, size=96))).mean() > 4


def test_a_catalogue_can_grow_without_changing_what_is_there(tmp_path: Path) -> None:
    small = _files(render_catalogue(tmp_path / "small", categories=2, photos=2, size=64))
    large = _files(render_catalogue(tmp_path / "large", categories=3, photos=3, size=64))
    assert len(small) == 4
    assert len(large) == 9
    assert small.items() <= large.items()


def test_progress_is_told_up_to_the_last_photo(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    render_catalogue(tmp_path, categories=2, photos=1, size=64, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]


def test_photos_on_demand_are_those_of_the_whole_catalogue(tmp_path: Path) -> None:
    whole = render_category(tmp_path / "whole", 1, range(3), size=64)
    later = render_category(tmp_path / "later", 1, range(2, 3), size=64)
    assert [path.name for path in later] == ["002.jpg"]
    assert later[0].read_bytes() == whole[2].read_bytes()


def test_every_category_has_a_folder_of_its_own() -> None:
    names = {category_name(category) for category in range(200)}
    assert len(names) == 200
    assert all(name == name.lower() and " " not in name for name in names)


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_categories_of_a_family_differ_in_traits_and_siblings_only_in_a_few(family: Family) -> None:
    members = [traits_of(family, place, [0]).values for place in range(8)]
    assert all(a != b for a, b in itertools.combinations(members, 2))
    first, *siblings = members[:4]
    assert all(1 <= sum(first[name] != other[name] for name in first) <= 3 for other in siblings)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_a_product_stands_on_the_ground_and_fills_its_sphere(family: Family, place: int) -> None:
    mesh = Mesh.of(family.build(traits_of(family, place, [1])))
    assert np.isfinite(mesh.point).all()
    assert np.isfinite(mesh.normal).all()
    assert mesh.point[:, 1].min() == pytest.approx(0.0, abs=1e-5)
    assert float(np.linalg.norm(np.ptp(mesh.point, axis=0))) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize(("category", "photo"), [(-1, 0), (0, -1)])
def test_numbers_below_0_are_refused(category: int, photo: int) -> None:
    with pytest.raises(ValueError, match="count from 0"):
        render_photo(category, photo)


def test_the_nearest_surface_hides_what_is_behind_it() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(0, 2, 5))
    sheets = [np.stack([x, y, np.full_like(x, z)], axis=2) for z in (-0.5, 0.5)]
    materials = [Material(plain(colour)) for colour in ((255, 0, 0), (0, 255, 0))]
    mesh = Mesh.of([Part(sheet, material) for sheet, material in zip(sheets, materials, strict=True)])
    target = np.array([0.0, mesh.height / 2, 0.0])
    camera = Camera.aimed(target, elevation=0.0, roll=0.0, distance=5.0, focal=1.5, centre=(0.5, 0.5))
    seen = rasterise(mesh, mesh.point, camera, 64)
    middle = seen.cell[seen.pixel == 32 * 64 + 32]
    assert mesh.of_material[middle] == [1]
