"""Taking one photo: how the product stands, the camera, the light, and what lens and sensor do to the picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from clients.demo.backdrop import Backdrop
from clients.demo.design import Family
from clients.demo.light import Lighting, shade
from clients.demo.mesh import Floats, Ints, Mask, Mesh
from clients.demo.raster import Camera, ground_shadow, rasterise

_FINER = 2  # the product is drawn this much finer than the photo and averaged down


def take(mesh: Mesh, family: Family, rng: np.random.Generator, size: int) -> Image.Image:
    """One photo (size x size, RGB) of `mesh`; every chance in it comes from `rng`."""
    turn = rng.uniform(*family.yaw)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    stand = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]], np.float32)
    point, normal = mesh.point @ stand, mesh.normal @ stand
    camera = _camera(rng, family, mesh)
    backdrop = Backdrop.drawn(rng)
    light = Lighting.drawn(rng, backdrop.bounce)

    seen = rasterise(mesh, point, camera, size * _FINER)
    product, cover = _averaged(shade(mesh, point, normal, seen, camera, light), seen.pixel, size)
    scene, floor = backdrop.paint(rng, camera, size)
    scene = scene * _light_on(mesh, point, camera, light, floor, size)
    if backdrop.gloss > 0.03:
        scene = _mirrored(scene, mesh, point, normal, camera, light, floor * backdrop.gloss, size)
    haze = rng.uniform(0.0, 2.2) * size / 256 if rng.random() < 0.6 else 0.0
    scene = _blurred(scene, haze)
    picture = scene * (1.0 - cover) + product
    if family.mirrored and rng.random() < 0.5:
        picture = picture[:, ::-1]
    return _developed(_in_front(picture, rng, light), rng)


def _camera(rng: np.random.Generator, family: Family, mesh: Mesh) -> Camera:
    distance = rng.uniform(2.6, 6.0)
    fill = rng.uniform(0.5, 0.95) if rng.random() < 0.85 else rng.uniform(0.95, 1.25)
    target = np.array([0.0, mesh.height * 0.5, 0.0], np.float32)
    return Camera.aimed(
        target,
        elevation=rng.uniform(*family.elevation),
        roll=rng.normal(0.0, 0.09),
        distance=distance,
        focal=fill * distance / 2.0,
        centre=(0.5 + rng.normal(0.0, 0.07), 0.52 + rng.normal(0.0, 0.06)),
    )


def _averaged(colour: Floats, pixel: Ints, size: int) -> tuple[Floats, Floats]:
    """From fine pixels to the photo's: colour times cover (size, size, 3), and cover (size, size, 1)."""
    fine = size * _FINER
    sheet = np.zeros((fine * fine, 4), np.float32)
    sheet[pixel, :3] = np.minimum(colour, 8.0)
    sheet[pixel, 3] = 1.0
    coarse = _halved(sheet.reshape(fine, fine, 4))
    # Closing the outline fills the pinholes that dicing leaves.
    solid = sheet[:, 3].reshape(fine, fine) > 0
    cover = _halved(~_grown(~_grown(solid)))[..., None]
    return coarse[..., :3] / np.maximum(coarse[..., 3:], 1e-3) * cover * (coarse[..., 3:] > 0), cover


def _halved(sheet: Floats | Mask) -> Floats:
    """Means of 2 x 2 pixels."""
    rows = sheet[::2].astype(np.float32) + sheet[1::2]
    return np.asarray((rows[:, ::2] + rows[:, 1::2]) / 4.0, np.float32)


def _grown(mask: Mask) -> Mask:
    """A mask (H, W) with the neighbours of its pixels."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    tall = wide.copy()
    tall[1:] |= wide[:-1]
    tall[:-1] |= wide[1:]
    return tall


def _blurred(values: Floats, radius: float) -> Floats:
    """Gaussian blur of (H, W) or (H, W, 3) linear values below 4."""
    if radius < 0.3:
        return values
    planes = values[..., None] if values.ndim == 2 else values
    out = [_box_blur(planes[..., i], radius) for i in range(planes.shape[2])]
    return np.stack(out, axis=2).reshape(values.shape)


def _box_blur(plane: Floats, radius: float) -> Floats:
    """Three running means of one plane (H, W), which together are close to a Gaussian of that deviation."""
    reach = max(1, round(radius))
    width = 2 * reach + 1
    for axis in (0, 1) * 2:
        padded = np.pad(plane, [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        total = np.cumsum(padded, axis=axis, dtype=np.float32)
        high, low = np.moveaxis(total, axis, 0)[width:], np.moveaxis(total, axis, 0)[:-width]
        plane = np.moveaxis((high - low) / width, 0, axis)
    return plane


def _light_on(mesh: Mesh, point: Floats, camera: Camera, light: Lighting, floor: Floats, size: int) -> Floats:
    """(size, size, 3) light that reaches floor and background: key and sky, less the shadows of the product."""
    half = size // 2
    nudges = ((0.0, 0.0), (0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2))
    cast = np.zeros((half, half), np.float32)
    for x, z in nudges:
        towards = light.key + np.array([x, 0.0, z], np.float32) * light.soft
        cast += ground_shadow(mesh, point, camera, towards / np.linalg.norm(towards), half) / len(nudges)
    cast = _closed(cast)
    low = point.copy()
    low[:, 1] *= 0.5
    contact = _closed(ground_shadow(mesh, low, camera, np.array([0.0, 1.0, 0.0], np.float32), half))
    cast = _blurred(cast, half * (0.008 + 0.03 * light.soft))
    contact = _blurred(contact, half * 0.03) * 0.55 + _blurred(contact, half * 0.008) * 0.2
    lost, dimmed = (_resized(mask, size)[..., None] * floor[..., None] for mask in (cast, contact))
    level = np.maximum(light.key[1], 0.2) * light.key_colour
    return np.asarray((1.0 - lost) * level + light.sky * (1.0 - dimmed), np.float32)


def _resized(mask: Floats, size: int) -> Floats:
    picture = Image.fromarray((np.clip(mask, 0.0, 1.0) * 255).astype(np.uint8))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255


def _closed(mask: Floats) -> Floats:
    picture = Image.fromarray((mask * 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.MinFilter(3))
    return np.asarray(picture, np.float32) / 255


def _mirrored(
    scene: Floats, mesh: Mesh, point: Floats, normal: Floats, camera: Camera, light: Lighting, share: Floats, size: int
) -> Floats:
    """The scene with the product's reflection in a polished floor; `share` (size, size) is how much it mirrors."""
    flip = np.array([-1.0, -1.0, 1.0], np.float32)  # upside down; the swap of left and right keeps surfaces outside out
    seen = rasterise(mesh, point * flip, camera, size)
    colour = shade(mesh, point, normal, seen, camera, light)
    image = np.zeros((size * size, 4), np.float32)
    image[seen.pixel, :3], image[seen.pixel, 3] = np.minimum(colour, 2.0), 1.0
    image = _blurred(image.reshape(size, size, 4), size / 256 * 1.6)
    share = share[..., None]
    return np.asarray(scene * (1.0 - share * image[..., 3:]) + image[..., :3] * share, np.float32)


def _in_front(picture: Floats, rng: np.random.Generator, light: Lighting) -> Floats:
    """Now and then something stands partly before the product: a price tag, or a thing close to the lens."""
    chance = rng.random()
    if chance > 0.22:
        return picture
    size = len(picture)
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    angle = rng.uniform(0, 2 * np.pi)
    x, y = size * (0.5 + 0.42 * np.cos(angle)), size * (0.5 + 0.42 * np.sin(angle))
    if chance < 0.1:
        w, h = rng.uniform(0.07, 0.12) * size, rng.uniform(0.05, 0.08) * size
        draw.rectangle([x - w, y - h, x + w, y + h], fill=255)
        tone = np.array([0.8, 0.78, 0.7]) if rng.random() < 0.6 else np.array([0.75, 0.55, 0.08])
        marks = Image.new("L", (size, size))
        ImageDraw.Draw(marks).text((x, y), f"{rng.uniform(2, 60):.2f}", fill=255, anchor="mm", font_size=int(h * 1.2))
        ink = np.asarray(marks.rotate(np.degrees(angle) % 30 - 15, center=(x, y)), np.float32)[..., None] / 255
        mask, blur = mask.rotate(np.degrees(angle) % 30 - 15, center=(x, y)), 0.0
        colour = tone * (1.0 - 0.9 * ink)
    else:
        r = rng.uniform(0.1, 0.22) * size
        x, y = size * (0.5 + 0.55 * np.cos(angle)), size * (0.5 + 0.55 * np.sin(angle))
        draw.ellipse([x - r, y - r * 0.8, x + r, y + r * 0.8], fill=255)
        colour, blur = rng.uniform(0.03, 0.5, 3), rng.uniform(0.02, 0.05) * size
    cover = _blurred(np.asarray(mask, np.float32) / 255, blur)[..., None]
    return np.asarray(picture * (1 - cover) + cover * colour * (0.6 * light.sky + 0.4 * light.key_colour), np.float32)


def _developed(picture: Floats, rng: np.random.Generator) -> Image.Image:
    """Lens blur and vignette, exposure, white balance, sensor noise, tone curve."""
    size = len(picture)
    # Metered on the whole and, so that pale things on dark tables keep their colours, on the middle.
    middle = picture[size // 3 : -size // 3 : 2, size // 3 : -size // 3 : 2, 1]
    level = max(np.quantile(picture[::4, ::4, 1], 0.85), 0.7 * np.quantile(middle, 0.9))
    gain = 0.62 / max(float(level), 0.05) * np.exp(rng.normal(0.0, 0.22))
    balance = np.exp(rng.normal(0.0, (0.07, 0.02, 0.09)))
    at = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    vignette = 1.0 - rng.uniform(0.0, 0.7) * (at[:, None] ** 2 + at[None, :] ** 2)
    light = picture * (gain * balance).astype(np.float32) * vignette[..., None].astype(np.float32)
    light = light * (1.0 + 0.15 * light) / (1.0 + 0.62 * light)  # a shoulder, so that highlights roll off
    noise = rng.uniform(0.002, 0.02)
    light = light + rng.standard_normal(light.shape, np.float32) * noise * np.sqrt(np.maximum(light, 0.02))
    tone = np.clip(light * 1.25, 0.0, 1.0) ** (1.0 / rng.uniform(2.0, 2.4))
    photo = Image.fromarray((tone * 255 + 0.5).astype(np.uint8))
    blur = rng.gamma(1.2, 0.35) * size / 256
    return photo.filter(ImageFilter.GaussianBlur(min(blur, 2.2 * size / 256))) if blur > 0.35 else photo
