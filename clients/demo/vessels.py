"""Product families that are turned on a wheel or folded from card: mugs, bottles, jars, vases, lamps, cartons."""

from __future__ import annotations

import numpy as np

from clients.demo.design import Family, Traits
from clients.demo.mesh import Floats, Material, Part
from clients.demo.shapes import bevelled, box, moved, planar, revolve, spline, tube
from clients.demo.textures import LAYOUTS, PATTERNS, Colour, label, linear, pasted, patterned, plain, woven, write

_STEEL: Colour = (196, 198, 202)
_BRASS: Colour = (206, 168, 96)
_WOOD: Colour = (170, 122, 78)
_GRAIN: Colour = (150, 104, 64)
_ALL_PATTERNS = tuple(PATTERNS)


def _disc(radius: float, y: float) -> Floats:
    return revolve(np.array([[radius, y], [radius * 0.5, y], [0.0, y]], np.float32))


def _metal(colour: Colour, gloss: float = 0.75) -> Material:
    return Material(plain(colour), gloss=gloss, metal=1.0)


def mug(t: Traits) -> list[Part]:
    tall, wide = t.between("height", 0.8, 1.15), 0.42
    foot = t.pick("shape", (0.42, 0.34, 0.40, 0.30))
    belly = t.pick("shape", (0.42, 0.385, 0.47, 0.40))
    body, accent = t.colour("body"), t.colour("accent", unlike="body")
    sheet = patterned(t.pick("pattern", _ALL_PATTERNS), body, accent, int(t.between("repeats", 3, 7)))
    glaze = t.between("gloss", 0.35, 0.85)
    wall = np.concatenate([
        bevelled([(foot * 0.85, 0.0), (foot * 0.95, 0.0), (foot, 0.05)], 0.03),
        spline([(foot, 0.06), (belly, tall * 0.5), (wide, tall - 0.02)], 26),
    ])  # fmt: skip
    lip = bevelled([(wide, tall - 0.02), (wide - 0.01, tall), (wide - 0.04, tall), (wide - 0.045, tall - 0.03)], 0.012)
    inner = bevelled([(wide - 0.045, tall - 0.03), (belly - 0.05, tall * 0.5), (foot - 0.04, 0.08), (0.0, 0.07)], 0.08)
    inside = t.pick("inside", ((240, 238, 230), body, accent))
    rim = t.pick("rim", (body, accent, (240, 238, 230), (70, 52, 40)))
    return [
        Part(revolve(wall), Material(linear(sheet), glaze)),
        Part(revolve(lip), Material(plain(rim), glaze)),
        Part(revolve(inner), Material(plain(inside), glaze)),
        Part(_mug_handle(t, wide, belly, tall), Material(plain(t.pick("loop", (body, accent))), glaze)),
    ]


def _mug_handle(t: Traits, wide: float, belly: float, tall: float) -> Floats:
    top, low, x = 0.82 * tall, 0.24 * tall, (wide + belly) / 2 - 0.03
    kind = t.pick("handle", ("round", "ear", "square", "low"))
    if kind == "square":
        path = bevelled([(x, top, 0), (x + 0.3, top, 0), (x + 0.3, low, 0), (x - 0.02, low, 0)], 0.08, 0.03)
    elif kind == "ear":
        path = spline([(x, top, 0), (x + 0.2, top + 0.03, 0), (x + 0.3, top - 0.12, 0), (x + 0.16, low + 0.06, 0),
                       (x - 0.03, low, 0)], 36)  # fmt: skip
    elif kind == "low":
        path = spline([(x, 0.62 * tall, 0), (x + 0.2, 0.6 * tall, 0), (x + 0.24, 0.34 * tall, 0),
                       (x + 0.1, 0.16 * tall, 0), (x - 0.05, 0.16 * tall, 0)], 36)  # fmt: skip
    else:
        turn = np.linspace(0.5 * np.pi, -0.5 * np.pi, 36)
        path = np.stack([x + 0.31 * np.cos(turn), (top + low) / 2 + (top - low) / 2 * np.sin(turn), 0 * turn], axis=1)
    return tube(path.astype(np.float32), 0.055, flatten=1.0 if kind == "square" else 0.8)


def bottle(t: Traits) -> list[Part]:
    wide, tall = t.between("width", 0.24, 0.34), 1.2
    shoulder = t.pick("shoulder", (0.72, 0.6, 0.82, 0.66))
    neck = t.between("neck", 0.09, 0.16)
    soft = t.pick("shoulder", (0.06, 0.30, 0.04, 0.16))
    profile = bevelled(
        [
            (wide * 0.9, 0.0),
            (wide, 0.0),
            (wide, shoulder * tall),
            (neck, (shoulder + 0.13) * tall),
            (neck, 1.02 * tall),
        ],
        soft,
    )
    body, paper = t.colour("body"), t.colour("paper", unlike="body")
    kind = t.pick("make", ("glass", "enamel", "steel", "plastic"))
    base = patterned(t.pick("pattern", ("band", "dipped", "hoops", "pinstripes")), body, paper, 3) if (
        kind == "enamel") else patterned("band", body, body)  # fmt: skip
    ink = t.colour("ink", unlike="paper")
    around = t.between("wrap", 0.3, 0.62)
    mark = label(
        t.pick("layout", LAYOUTS), paper, ink, t.brand, (int(512 * around), int(160 * t.between("tall", 0.6, 1.1)))
    )
    sheet = pasted(base, mark, (0.5, t.between("at", 0.62, 0.72)), around, t.between("tall", 0.28, 0.46))
    gloss = {"glass": 0.9, "enamel": 0.55, "steel": 0.6, "plastic": 0.4}[kind]
    finish = Material(linear(sheet), gloss, metal=0.55 * (kind == "steel"), glass=1.0 * (kind == "glass"))
    return [Part(revolve(profile), finish), *_cap(t, neck, tall)]


def _cap(t: Traits, neck: float, tall: float) -> list[Part]:
    kind = t.pick("cap", ("crown", "screw", "cork", "sport", "pump"))
    colour = t.colour("cap_colour")
    if kind == "cork":
        shape = bevelled([(neck * 0.85, tall), (neck * 0.95, tall * 1.12), (0.0, tall * 1.12)], 0.015)
        return [Part(revolve(shape), Material(linear(patterned("speckles", (196, 152, 104), (150, 108, 66))), 0.1))]
    if kind == "crown":
        shape = bevelled([(neck * 1.2, tall), (neck * 1.05, tall * 1.06), (0.0, tall * 1.07)], 0.02)
        return [Part(revolve(shape, lobes=21, depth=0.03, columns=127), _metal(colour, 0.7))]
    top = tall * (1.16 if kind == "screw" else 1.08)
    shape = bevelled([(neck * 1.15, tall * 0.97), (neck * 1.15, top), (0.0, top)], 0.02)
    parts = [Part(revolve(shape, lobes=30, depth=0.015, columns=145), Material(plain(colour), 0.45))]
    if kind == "sport":
        spout = bevelled([(neck * 0.55, top), (neck * 0.45, top + 0.12), (0.0, top + 0.12)], 0.03)
        parts.append(Part(revolve(spout), Material(plain((226, 226, 222)), 0.4)))
    if kind == "pump":
        stem = np.array([(0, top, 0), (0, top + 0.12, 0), (0.0, top + 0.15, 0.03), (0.0, top + 0.14, 0.26)], np.float32)
        parts.append(Part(tube(spline(stem.tolist(), 24), 0.035), Material(plain(colour), 0.5)))
    return parts


def jar(t: Traits) -> list[Part]:
    wide, tall = t.between("width", 0.36, 0.48), t.between("height", 0.62, 0.95)
    mouth = wide * t.pick("shape", (0.8, 0.92, 0.7))
    profile = bevelled([(wide * 0.9, 0.0), (wide, 0.0), (wide, tall * 0.8), (mouth, tall * 0.93), (mouth, tall)],
                       t.pick("shape", (0.12, 0.05, 0.2)))  # fmt: skip
    filling, paper = t.colour("filling"), t.colour("paper", unlike="filling")
    bits: Colour = (int(filling[0] * 0.62), int(filling[1] * 0.62), int(filling[2] * 0.62))
    base = patterned(t.pick("content", ("speckles", "dots", "waves", "diamonds")), filling, bits, 6)
    layout, ink = t.pick("layout", LAYOUTS), t.colour("ink", unlike="paper")
    around = t.between("wrap", 0.26, 0.5)
    sheet = pasted(base, label(layout, paper, ink, t.brand), (0.5, 0.6), around, t.between("wrap", 0.38, 0.5))
    lid_kind, lid_colour = t.pick("lid", ("metal", "check", "wood", "cloth")), t.colour("lid_colour")
    rim, top = mouth * 1.08, tall * (1.16 if lid_kind != "wood" else 1.1)
    lid = bevelled([(rim, tall * 0.97), (rim, top), (0.0, top)], 0.025)
    if lid_kind == "cloth":
        hem, fold, crown = (rim * 1.45, tall * 0.86), (rim * 1.1, tall * 0.98), (rim * 1.02, top - 0.03)
        lid = spline([hem, fold, crown, (rim * 0.7, top + 0.02), (0.0, top + 0.03)], 30)
    linen = (244, 240, 232)
    finish = {
        "metal": _metal(lid_colour, 0.65),
        "wood": Material(linear(patterned("waves", _WOOD, _GRAIN, 6)), 0.15),
        "check": Material(linear(patterned("checks", linen, lid_colour, 4)), 0.5),
        "cloth": Material(linear(woven(patterned("dots", lid_colour, linen, 5))), 0.02),
    }[lid_kind]
    grid = revolve(lid, lobes=14, depth=0.03, columns=113) if lid_kind == "cloth" else revolve(lid)
    flat = planar(grid, 0, 2) if lid_kind != "metal" else None
    return [Part(revolve(profile), Material(linear(sheet), 0.85, glass=0.7)), Part(grid, finish, flat)]


def vase(t: Traits) -> list[Part]:
    neck, belly = t.between("neck", 0.1, 0.22), t.between("belly", 0.26, 0.42)
    kind = t.pick("shape", ("amphora", "gourd", "tulip", "cylinder", "flask"))
    points = {
        "amphora": [(0.16, 0.0), (belly * 0.8, 0.3), (belly, 0.65), (neck, 0.98), (neck * 1.35, 1.12)],
        "gourd": [(0.2, 0.0), (belly, 0.28), (neck * 1.1, 0.58), (belly * 0.66, 0.82), (neck, 1.08)],
        "tulip": [(0.2, 0.0), (belly * 0.85, 0.25), (belly * 0.7, 0.7), (neck * 1.6, 0.9), (belly * 0.9, 1.1)],
        "cylinder": [
            (belly * 0.75, 0.0),
            (belly * 0.8, 0.4),
            (belly * 0.8, 0.8),
            (belly * 0.74, 1.0),
            (neck * 1.5, 1.1),
        ],
        "flask": [(0.24, 0.0), (belly, 0.16), (belly * 0.9, 0.42), (neck * 0.8, 0.68), (neck * 0.8, 1.12)],
    }[kind]
    wall = spline(points, 60)
    mouth = float(wall[-1, 0])
    lip = bevelled([(mouth, wall[-1, 1]), (mouth - 0.025, wall[-1, 1] + 0.01), (mouth * 0.72, wall[-1, 1] - 0.3)], 0.01)
    body, accent = t.colour("body"), t.colour("accent", unlike="body")
    sheet = patterned(t.pick("pattern", _ALL_PATTERNS), body, accent, int(t.between("repeats", 2, 6)))
    lobes = t.pick("fluting", (0, 0, 8, 14, 22))
    glaze = Material(linear(sheet), t.pick("glaze", (0.1, 0.45, 0.75, 0.92)))
    return [Part(revolve(wall, 121, lobes, 0.03), glaze),
            Part(revolve(lip, 121, lobes, 0.03), Material(plain((84, 70, 60)), 0.2))]  # fmt: skip


def lamp(t: Traits) -> list[Part]:
    shade_low, shade_high = t.between("spread", 0.3, 0.46), t.pick("shade", (0.14, 0.3, 0.22, 0.08))
    body = t.colour("body")
    foot = t.pick("base", ("disc", "ball", "cone", "column"))
    points = {
        "disc": [(0.26, 0.0), (0.26, 0.035), (0.03, 0.05), (0.022, 0.1), (0.022, 0.75)],
        "ball": [(0.12, 0.0), (0.24, 0.14), (0.22, 0.3), (0.07, 0.42), (0.025, 0.5), (0.022, 0.75)],
        "cone": [(0.22, 0.0), (0.18, 0.1), (0.08, 0.4), (0.03, 0.55), (0.022, 0.75)],
        "column": [(0.17, 0.0), (0.17, 0.08), (0.08, 0.12), (0.08, 0.5), (0.022, 0.56), (0.022, 0.75)],
    }[foot]
    profile = spline(points, 60) if foot in ("ball", "cone") else bevelled(points, 0.02)
    finish = {"ceramic": Material(plain(body), 0.7), "brass": _metal(_BRASS), "steel": _metal(_STEEL),
              "wood": Material(linear(patterned("waves", _WOOD, _GRAIN, 5)), 0.25),
              "banded": Material(linear(patterned("hoops", body, (238, 232, 220), 6)), 0.6)}  # fmt: skip
    material = finish[t.pick("finish", tuple(finish))]
    low, high = 0.62, 0.62 + t.between("depth", 0.34, 0.5)
    bend = t.pick("shade", (0.0, 0.0, 0.07, 0.1))
    side = spline([(shade_low, low), ((shade_low + shade_high) / 2 + bend, (low + high) / 2), (shade_high, high)], 24)
    cloth, trim = t.colour("cloth"), t.colour("trim", unlike="cloth")
    pattern = t.pick("pattern", ("band", "pinstripes", "dots", "chevrons", "flowers", "dipped"))
    sheet = linear(woven(patterned(pattern, cloth, trim, int(t.between("repeats", 3, 6)))))
    lobes = t.pick("pleats", (0, 0, 36))
    outer = revolve(side, 145, lobes, 0.02)
    return [
        Part(revolve(profile), material),
        Part(outer, Material(sheet, 0.05, glow=0.7)),
        Part(outer[::-1] * np.array([0.985, 1.0, 0.985], np.float32), Material(plain((240, 230, 210)), 0.05, glow=1.6)),
        Part(moved(tube(np.array([(0, high - 0.1, 0), (0, high + 0.04, 0)], np.float32), 0.012)), _metal(_BRASS)),
    ]


def carton(t: Traits) -> list[Part]:
    size = (t.between("width", 0.45, 0.85), t.between("height", 0.7, 1.1), t.between("depth", 0.2, 0.5))
    body, accent, ink = t.colour("body"), t.colour("accent", unlike="body"), t.colour("ink", unlike="accent")
    face = (320, int(320 * size[1] / size[0]))
    art = patterned(t.pick("pattern", _ALL_PATTERNS), body, accent, int(t.between("repeats", 1, 4)), face)
    wide = t.between("panel", 0.6, 0.92)
    front = pasted(
        art, label(t.pick("layout", LAYOUTS), accent, ink, t.brand), (0.5, t.between("at", 0.34, 0.6)), wide, 0.42
    )
    write(front, t.pick("weight", ("250 g", "500 g", "1 kg", "12 pcs")), (0.5, 0.92), 0.06, ink)
    side = patterned("band", body, accent, 2, (160, face[1]))
    write(side, t.brand, (0.5, 0.6), 0.08, ink)
    top = patterned("band", t.pick("lid", (body, accent)), ink, 1, (320, 160))
    gloss = t.between("gloss", 0.15, 0.6)
    return [
        Part(moved(grid, y=size[1] / 2), Material(linear(sheet), gloss))
        for grid, sheet in zip(box(size, 0.015), (front, art, side, side, top, art), strict=True)
    ]


FAMILIES = (
    Family(
        "mug",
        "height shape body accent pattern repeats gloss inside rim loop handle",
        mug,
        (0.15, 0.8),
        (-1.0, 1.0),
        mirrored=True,
    ),
    Family(
        "bottle",
        "width shoulder neck make body paper pattern ink layout wrap tall at cap cap_colour",
        bottle,
        (0.0, 0.5),
        (-1.0, 1.0),
    ),
    Family(
        "jar", "width height shape filling content paper ink layout wrap lid lid_colour", jar, (0.08, 0.75), (-1.0, 1.0)
    ),
    Family(
        "vase",
        "shape neck belly body accent pattern repeats fluting glaze",
        vase,
        (0.02, 0.55),
        (-3.1, 3.1),
        mirrored=True,
    ),
    Family(
        "lamp",
        "spread shade body base finish depth cloth trim pattern repeats pleats",
        lamp,
        (-0.02, 0.4),
        (-3.1, 3.1),
        mirrored=True,
    ),
    Family(
        "carton",
        "width height depth body accent ink pattern repeats panel layout at weight lid gloss",
        carton,
        (0.08, 0.6),
        (-0.95, 0.95),
    ),
)
