"""Product families that are sewn or assembled: sneakers, backpacks, chairs, watches."""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw, ImageOps

from clients.demo.design import Family, Traits
from clients.demo.mesh import Floats, Material, Part
from clients.demo.shapes import bevelled, box, moved, pitched, planar, revolve, ribbon, spline, squircle, tube
from clients.demo.textures import Colour, Picture, linear, pasted, patterned, plain, woven, write

_WOODS: tuple[Colour, ...] = ((176, 128, 82), (96, 62, 40), (214, 182, 138), (48, 46, 46), (232, 230, 224))
_METALS: tuple[Colour, ...] = ((200, 202, 206), (212, 170, 96), (70, 72, 78), (222, 170, 146))


def sneaker(t: Traits) -> list[Part]:
    sole, collar = t.between("sole", 0.08, 0.25), t.pick("collar", (0.5, 0.62, 0.84))
    x = np.concatenate([-np.cos(np.linspace(0, 0.5 * np.pi, 16)), np.sin(np.linspace(0.05, 0.5 * np.pi, 40))])
    half = np.interp(x, [-1, -0.6, -0.1, 0.45, 0.8, 1], [0.27, 0.29, 0.26, 0.36, 0.34, 0.3])
    half = half * np.maximum(1 - np.abs(x) ** t.pick("toe", (8.0, 3.5)), 0.0) ** 0.5 + 0.012
    rise = np.interp(x, [-1, -0.9, -0.5, -0.12, 0.15, 0.5, 0.8, 1], [0.62, 0.98, 0.9, 0.86, 0.68, 0.5, 0.4, 0.2])
    top = rise * collar
    around = np.linspace(0.0, np.pi, 49)
    c, s = np.cos(around), np.sin(around)
    dome_z = np.sign(c) * np.abs(c) ** 0.6
    dome_y = s**0.75
    # Where the foot goes in, the section climbs the side, passes over the padded edge, and runs down to the insole.
    edge = np.abs(np.linspace(-1.0, 1.0, 49))
    open_z = np.sign(c) * np.interp(edge, [0, 0.3, 0.42, 0.5, 0.58, 1], [0, 0.5, 0.6, 0.7, 0.82, 1.0])
    open_y = np.interp(edge, [0, 0.3, 0.42, 0.5, 0.58, 1], [0.12, 0.14, 0.86, 0.97, 0.9, 0.0])
    mouth = np.clip(np.minimum((x + 0.9) / 0.1, (-0.02 - x) / 0.16), 0.0, 1.0)[:, None]
    z = half[:, None] * (dome_z * (1 - mouth) + open_z * mouth)
    y = sole * 0.8 + top[:, None] * (dome_y * (1 - mouth) + open_y * mouth)
    upper = np.stack([np.broadcast_to(x[:, None], z.shape), y, -z], axis=2).astype(np.float32)
    cloth = Material(linear(_upper(t)), t.pick("toe", (0.05, 0.35)))
    return [Part(upper, cloth), *_sole(t, x, half, sole), *_laces(t, x, half, top, sole)]


def _upper(t: Traits) -> Picture:
    """The upper laid flat: left to right from one side over the laces to the other, top to bottom from toe to heel."""
    body, accent = t.colour("body"), t.colour("accent", unlike="body")
    sheet = woven(patterned("band", body, body, size=(512, 512)), 120, 0.06)
    draw = ImageDraw.Draw(sheet)
    trim = t.colour("trim")
    if t.pick("toecap", (True, False)):
        draw.rectangle([0, 0, 512, 66], fill=trim)
    draw.rectangle([0, 470, 512, 512], fill=trim)
    draw.rectangle([205, 70, 307, 300], fill=tuple(int(c * 0.8) for c in body))
    draw.rectangle([140, 306, 372, 480], fill=(72, 68, 68))
    mark = t.pick("mark", ("two", "three", "swoop", "star", "panel", "none"))
    stripes = [[(10, v + 30), (10, v + 52), (190, v - 8), (190, v - 30)] for v in (230, 275, 320)]
    tips = [(i * np.pi / 5, (60, 26)[i % 2]) for i in range(10)]
    shapes = {
        "two": stripes[:2],
        "three": stripes,
        "swoop": [[(40, 150), (60, 250), (150, 400), (70, 300), (20, 240)]],
        "star": [[(85 + int(r * np.sin(turn)), 300 + int(r * np.cos(turn))) for turn, r in tips]],
        "panel": [[(0, 180), (150, 240), (150, 330), (0, 420)]],
    }
    for shape in shapes.get(mark, []):
        draw.polygon(shape, fill=accent)
    sheet.paste(ImageOps.mirror(sheet.crop((0, 0, 256, 512))), (256, 0))
    return sheet


def _sole(t: Traits, x: Floats, half: Floats, sole: float) -> list[Part]:
    outline = np.concatenate([np.stack([x, half], axis=1), np.stack([x[::-1], -half[::-1]], axis=1)])
    outline = np.concatenate([outline, outline[:1]])
    swell = np.array([(0.0, 0.0), (0.9, 0.0), (1.02, 0.1), (1.06, 0.4), (1.05, 0.8), (1.02, 1.0), (0.9, 1.02)])
    across, level = swell[:, :1], np.broadcast_to(sole * swell[:, 1:], (len(swell), len(outline)))
    grid = np.stack([outline[:, 0] * (0.5 + 0.5 * across), level, outline[:, 1] * across], axis=2)
    colour = t.colour("sole_colour")
    sheet = patterned(t.pick("tread", ("band", "hoops", "dipped")), colour, t.colour("trim", unlike="sole_colour"), 3)
    return [Part(grid.astype(np.float32), Material(linear(sheet), 0.2))]


def _laces(t: Traits, x: Floats, half: Floats, top: Floats, sole: float) -> list[Part]:
    around = np.linspace(0.3 * np.pi, 0.7 * np.pi, 14)
    parts = []
    for i, place in enumerate(np.linspace(0.06, 0.46, t.pick("collar", (4, 5, 6)))):
        wide, high = np.interp(place, x, half), np.interp(place, x, top)
        c = np.cos(around)
        lean = 0.05 * (around - np.pi / 2) * (1 if i % 2 else -1)
        path = np.stack([place + lean, sole * 0.8 + high * np.sin(around) ** 0.75 + 0.012,
                         wide * np.sign(c) * np.abs(c) ** 0.6], axis=1)  # fmt: skip
        parts.append(
            Part(tube(path.astype(np.float32), 0.022, columns=9), Material(plain(t.colour("lace_colour")), 0.1))
        )
    return parts


def backpack(t: Traits) -> list[Part]:
    tall, deep = t.between("height", 1.0, 1.25), t.between("depth", 0.42, 0.6)
    crown = t.pick("crown", (0.35, 0.12, 0.24))
    body, accent, leather = t.colour("body"), t.colour("accent", unlike="body"), t.colour("leather")
    profile = bevelled([(0.0, 0.0), (0.36, 0.0), (0.4, tall * 0.4), (0.37, tall), (0.0, tall + 0.04)], crown)
    pattern = t.pick("pattern", ("band", "checks", "speckles", "diamonds", "hoops", "dipped"))
    sheet = patterned(pattern, body, accent, int(t.between("repeats", 2, 6)), (512, 320))
    ImageDraw.Draw(sheet).rectangle([0, 250, 512, 320], fill=t.pick("base", (body, leather, accent)))
    cloth = Material(linear(woven(sheet, 110, 0.08)), 0.06)
    front = deep * 0.4
    parts = [Part(squircle(profile, deep, 3.6), cloth)]
    for low, high, wide in t.pick(
        "pockets", (((0.1, 0.48, 0.28),), ((0.1, 0.36, 0.28), (0.44, 0.7, 0.24)), ((0.06, 0.62, 0.3),))
    ):
        shape = bevelled([(0.0, low * tall), (wide, low * tall), (wide, high * tall), (0.0, high * tall)], 0.07)
        picture = patterned("band", t.pick("pocket_colour", (body, accent, leather)), leather, 0, (256, 160))
        pocket = moved(squircle(shape, 0.35, 4.5), z=front - 0.01)
        parts.append(Part(pocket, Material(linear(woven(picture, 60, 0.08)), 0.06)))
        zip_y = high * tall - 0.05
        line = spline(
            [(-wide * 0.85, zip_y, front + 0.07), (0, zip_y + 0.02, front + 0.105), (wide * 0.85, zip_y, front + 0.07)]
        )
        parts.append(
            Part(tube(line, 0.012, columns=9), Material(plain(_METALS[int(t.values["zip"] * 4)]), 0.7, metal=1.0))
        )
    if t.pick("flap", (True, False)):
        over = squircle(bevelled([(0.41, tall * 0.72), (0.4, tall), (0.0, tall + 0.07)], crown), deep, 3.6)
        parts.append(Part(over, Material(linear(woven(patterned("band", leather, leather), 80, 0.07)), 0.15)))
        for side in (-0.18, 0.18):
            path = spline(
                [(side, tall * 0.8, front + 0.03), (side, tall * 0.66, front + 0.04), (side, tall * 0.5, front + 0.1)]
            )
            parts.append(Part(ribbon(path, np.array([1, 0, 0], np.float32), 0.07, 0.02), Material(plain(accent), 0.2)))
    loop = spline([(-0.1, tall, -0.1), (-0.08, tall + 0.14, -0.1), (0.08, tall + 0.14, -0.1), (0.1, tall, -0.1)], 24)
    parts.append(Part(tube(loop, 0.025, 0.5), Material(plain(leather), 0.2)))
    for side in (-1.0, 1.0):
        strap = spline([(0.18 * side, tall, -front), (0.32 * side, tall * 0.8, -front - 0.22),
                        (0.4 * side, tall * 0.4, -front - 0.2), (0.36 * side, 0.08, -front + 0.02)], 40)  # fmt: skip
        grid = ribbon(strap, np.array([1, 0, 0], np.float32), 0.13, 0.05)
        parts.append(Part(grid, Material(plain(t.colour("strap")), 0.06)))
    return parts


def chair(t: Traits) -> list[Part]:
    frame = Material(plain(t.pick("wood", _WOODS)), t.between("gloss", 0.15, 0.5))
    cover = woven(patterned(t.pick("pattern", ("band", "hoops", "checks", "dots", "flowers")), t.colour("seat"),
                            t.colour("accent", unlike="seat"), 2, (256, 256)), 60, 0.08)  # fmt: skip
    soft = Material(linear(cover), 0.05)
    seat_y, wide = 0.62, t.between("width", 0.62, 0.78)
    parts = []
    if t.pick("seat_shape", ("square", "round", "square")) == "round":
        pad = revolve(bevelled([(0.0, 0.0), (wide / 2, 0.0), (wide / 2, 0.08), (0.0, 0.09)], 0.04))
        parts.append(Part(moved(pad, y=seat_y), soft, planar(pad, 0, 2)))
    else:
        parts += [Part(moved(grid, y=seat_y + 0.04), soft) for grid in box((wide, 0.08, wide), 0.035)]
    thick, splay = t.between("thick", 0.022, 0.045), t.pick("splay", (0.0, 0.07, 0.13))
    for sx, sz in ((-1, 1), (1, 1), (-1, -1), (1, -1)):
        reach = wide / 2 - 0.07
        leg = np.linspace((sx * reach, seat_y, sz * reach), (sx * (reach + splay), 0.0, sz * (reach + splay)), 14)
        parts.append(Part(tube(leg.astype(np.float32), np.linspace(thick, thick * 0.65, 14, dtype=np.float32)), frame))
    if t.pick("rails", (True, False)):
        for sx in (-1, 1):
            ends = np.linspace(
                (sx * (wide / 2 - 0.05), 0.28, wide / 2 - 0.05), (sx * (wide / 2 - 0.05), 0.28, 0.05 - wide / 2), 10
            )
            parts.append(Part(tube(ends.astype(np.float32), thick * 0.6), frame))
    return parts + _chair_back(t, wide, seat_y, thick, frame, soft)


def _chair_back(t: Traits, wide: float, seat_y: float, thick: float, frame: Material, soft: Material) -> list[Part]:
    high, lean = t.between("back_height", 0.55, 0.85), t.between("lean", -0.25, -0.05)
    x, z = wide / 2 - 0.05, -(wide / 2 - 0.05)

    def rod(points: Floats, width: float) -> Part:
        return Part(moved(pitched(tube(points.astype(np.float32), width), lean), y=seat_y, z=z), frame)

    kind = t.pick("back", ("panel", "slats", "ladder", "hoop"))
    if kind == "hoop":
        turn = np.linspace(0.0, np.pi, 40)
        arch = np.stack([x * np.cos(turn), high * np.sin(turn) ** 0.7, 0 * turn], axis=1)
        spokes = [(place, high * (1 - (place / x) ** 2) ** 0.35) for place in np.linspace(-0.65, 0.65, 5) * x]
        return [rod(arch, thick)] + [rod(np.linspace((p, 0, 0), (p, top, 0), 12), thick * 0.5) for p, top in spokes]
    parts = [rod(np.linspace((side * x, 0, 0), (side * x, high, 0), 14), thick) for side in (-1, 1)]
    if kind == "panel":
        return parts + [Part(moved(pitched(moved(grid, y=high * 0.66), lean), y=seat_y, z=z), soft)
                        for grid in box((2 * x, high * 0.6, 0.06), 0.028)]  # fmt: skip
    parts.append(rod(np.linspace((-x, high, 0), (x, high, 0), 14), thick * 1.2))
    if kind == "slats":
        n = t.pick("slats", (4, 5, 7))
        return parts + [
            rod(np.linspace((p, 0, 0), (p, high, 0), 14), thick * 0.55) for p in np.linspace(-x, x, n + 2)[1:-1]
        ]
    n = t.pick("slats", (2, 3, 4))
    for level in np.linspace(0.3, 1.0, n + 1)[:-1] * high:
        bar = moved(np.concatenate([box((2 * x, 0.09, 0.025), 0.01)[0]]), y=float(level))
        back = moved(box((2 * x, 0.09, 0.025), 0.01)[1], y=float(level))
        parts += [Part(moved(pitched(grid, lean), y=seat_y, z=z), frame) for grid in (bar, back)]
    return parts


def watch(t: Traits) -> list[Part]:
    metal = Material(plain(t.pick("case", _METALS)), 0.7, metal=1.0)
    ring = t.between("bezel", 0.74, 0.88)
    square = t.pick("form", (2.0, 2.0, 2.0, 5.0))
    case = squircle(
        bevelled([(0.0, 0.0), (0.44, 0.0), (0.47, 0.08), (0.45, 0.17), (0.47 * ring, 0.2)], 0.03), 1.0, square
    )
    dial = squircle(np.array([(0.47 * ring, 0.188), (0.2, 0.188), (0.0, 0.188)], np.float32), 1.0, square)
    flat = planar(dial, 0, 2)
    flat[..., 1] = 1.0 - flat[..., 1]
    rim = squircle(
        bevelled([(0.47, 0.16), (0.46, 0.205), (0.47 * ring, 0.21), (0.46 * ring, 0.185)], 0.012), 1.0, square
    )
    edge = Material(plain(t.colour("ring")), 0.6)
    crown = np.linspace((0.45, 0.1, 0.0), (0.55, 0.1, 0.0), 8).astype(np.float32)
    parts = [Part(case, metal), Part(rim, edge), Part(dial, Material(linear(_dial(t)), 0.75), flat),
             Part(tube(crown, 0.05), metal)]  # fmt: skip
    width = t.between("strap_width", 0.42, 0.6)
    base, seam = t.colour("strap"), t.colour("seam", unlike="strap")
    kind = t.pick("strap_kind", ("leather", "links", "nylon", "rubber"))
    sheet = patterned(
        "pinstripes" if kind == "nylon" else "hoops", base, seam if kind == "nylon" else base, 2, (128, 256)
    )
    draw = ImageDraw.Draw(sheet)
    if kind == "rubber":
        draw.rectangle([54, 0, 74, 256], fill=seam)
    if kind == "links":
        draw.rectangle([40, 0, 88, 256], fill=seam)
        for y in range(0, 256, 16):
            draw.line([0, y, 128, y], fill=(40, 40, 42), width=3)
    for row in range(8, 250, 12):
        if kind == "leather":
            for column in (5, 58, 70, 122):
                draw.line([column, row, column, row + 6], fill=seam, width=3)
    finish = (
        Material(linear(sheet), 0.6, metal=0.9)
        if kind == "links"
        else Material(linear(sheet), 0.2 if kind == "leather" else 0.1)
    )
    for side in (-1.0, 1.0):
        path = spline([(0, 0.1, 0.4 * side), (0, 0.12, 0.56 * side), (0, 0.06, 0.9 * side), (0, 0.03, 1.35 * side)], 40)
        taper = np.linspace(width, width * 0.82, 40, dtype=np.float32)
        parts.append(Part(ribbon(path, np.array([1, 0, 0], np.float32), taper, 0.06), finish))
    return parts


def _dial(t: Traits) -> Picture:
    face, ink = t.colour("face"), t.colour("ink", unlike="face")
    sheet = patterned("band", face, face, size=(400, 400))
    draw = ImageDraw.Draw(sheet)
    marks = t.pick("marks", ("bars", "dots", "numerals", "quarters"))
    for hour in range(12):
        s, c = np.sin(hour * np.pi / 6), -np.cos(hour * np.pi / 6)
        if marks == "numerals":
            write(sheet, str(hour or 12), (0.5 + 0.39 * s, 0.5 + 0.39 * c), 0.12, ink)
        elif marks == "dots":
            draw.ellipse([200 + 165 * s - 9, 200 + 165 * c - 9, 200 + 165 * s + 9, 200 + 165 * c + 9], fill=ink)
        elif marks == "bars" or hour % 3 == 0:
            draw.line([200 + 135 * s, 200 + 135 * c, 200 + 180 * s, 200 + 180 * c], fill=ink, width=11)
    extra = t.pick("extra", ("none", "date", "small", "three"))
    spots = {"small": [(200, 270)], "three": [(140, 200), (260, 200), (200, 265)]}.get(extra, [])
    for x, y in spots:
        draw.ellipse([x - 38, y - 38, x + 38, y + 38], outline=ink, width=4, fill=tuple(int(c * 0.85) for c in face))
        draw.line([x, y, x + 18, y - 22], fill=ink, width=4)
    if extra == "date":
        sheet = pasted(sheet, patterned("band", (240, 240, 236), (30, 30, 30), 3, (40, 40)), (0.75, 0.5), 0.12, 0.09)
        draw = ImageDraw.Draw(sheet)
    hands = t.colour("hands", unlike="face")
    for angle, reach, width in ((-1.03, 95, 14), (1.0, 145, 10)):
        draw.line([200, 200, 200 + reach * np.sin(angle), 200 - reach * np.cos(angle)], fill=hands, width=width)
    draw.ellipse([188, 188, 212, 212], fill=hands)
    return sheet


FAMILIES = (
    Family(
        "sneaker",
        "sole collar toe body accent trim toecap mark sole_colour tread lace_colour",
        sneaker,
        (0.12, 0.75),
        (-0.9, 0.9),
        mirrored=True,
    ),
    Family(
        "backpack",
        "height depth crown body accent leather pattern repeats base pockets pocket_colour zip flap strap",
        backpack,
        (0.05, 0.5),
        (-0.9, 0.9),
        mirrored=True,
    ),
    Family(
        "chair",
        "wood gloss pattern seat accent width seat_shape thick splay rails back_height lean back slats",
        chair,
        (0.1, 0.6),
        (-1.0, 1.0),
        mirrored=True,
    ),
    Family(
        "watch",
        "case bezel form ring strap_width strap seam strap_kind face ink marks extra hands",
        watch,
        (0.7, 1.45),
        (-0.7, 0.7),
    ),
)
