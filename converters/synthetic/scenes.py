"""The synthetic scenes of `converters.sample`: what its two products and their defects look like.

`washer` is a toothed ring of brushed metal (RGB), `weave` is twill cloth (grey). Each image is a pure function
of (seed, category, kind, number). An image with a defect starts as the good image of the same generator
(`render_good`), and differs from it nowhere outside its mask. Light, position, scale, contrast, blur and noise
vary more between good images than a defect changes them, so no single number of a whole image tells good from
defect.

Images here are float32 in 0..255 until `develop` rounds them. Axis order is (row, column, channel); points are
(x, y) in pixels, with pixel centres at whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from converters.sample import CATEGORIES, DEFECTS

SIZE = 256
KINDS = ("train/good", "test/good", *DEFECTS)
VISIBLE = 8.0  # grey levels: a structural change smaller than this is not part of a mask

Rng = np.random.Generator
Rows, Columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


@dataclass(frozen=True)
class Light:
    """The camera and the lamp of one image: harmless variation, shared with its defect."""

    gain: np.ndarray  # (H, W, 1), about 0.6..1.4: lamp, its slope over the image, vignette
    towards: np.ndarray  # (2,) unit vector (x, y) to the lamp
    blur: float  # sigma in pixels
    specks: np.ndarray  # (H, W, 1) grey levels: dust, lint, knots
    noise: np.ndarray  # (H, W, C) grey levels, added last


@dataclass(frozen=True)
class Layers:
    """A drawn scene before the noise; every image is lit and in 0..255."""

    image: np.ndarray  # (H, W, C) the scene
    behind: np.ndarray  # (H, W, C) what a through hole shows
    cover: np.ndarray  # (H, W) 0..1, where the product's own surface lies
    noise: np.ndarray  # (H, W, C)
    fray: float  # how ragged a hole's outline is, in pixels


# ---------------------------------------------------------------- shared tools


def image_rng(seed: int, category: str, kind: str, number: int) -> Rng:
    """The generator of one image, independent of every other image."""
    return np.random.default_rng([seed, CATEGORIES.index(category), KINDS.index(kind), number])


def smooth_noise(rng: Rng, rows: int, columns: int) -> np.ndarray:
    """(H, W) field with about unit spread that changes over H / rows and W / columns pixels."""
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 at `low`, 1 at `high`, smooth between; `low` may be the larger one."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def soften(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur that keeps a trailing channel axis of one."""
    return cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape)


def slopes(height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d/dx and d/dy of an (H, W) height field, per pixel."""
    return cv2.Sobel(height, -1, 1, 0, scale=0.125), cv2.Sobel(height, -1, 0, 1, scale=0.125)


def unit(angle: float) -> np.ndarray:
    """(2,) unit vector (x, y)."""
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """As many small values as large ones."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def make_specks(rng: Rng) -> np.ndarray:
    """(H, W, 1) grey levels to add: a few bright and dark points, a pixel or two wide, harmless."""
    count = rng.integers(2, 11)
    points = np.zeros((SIZE, SIZE), np.float32)
    height = rng.uniform(40, 170, count) * rng.choice([-1, 1], count)
    points[rng.integers(SIZE, size=count), rng.integers(SIZE, size=count)] = height
    sharp = np.array([[0.15, 0.45, 0.15], [0.45, 1, 0.45], [0.15, 0.45, 0.15]], np.float32)
    return cv2.filter2D(points, -1, sharp)[..., None]


def make_light(rng: Rng, channels: int, noise: tuple[float, float]) -> Light:
    """A random lamp and camera; `noise` is the range of its sigma in grey levels."""
    towards = unit(rng.uniform(0, 2 * np.pi))
    x, y = (Columns / SIZE - 0.5), (Rows / SIZE - 0.5)
    slope = rng.uniform(0, 0.35) * (x * towards[0] + y * towards[1])
    vignette = rng.uniform(0, 0.45) * (x * x + y * y)
    gain = log_uniform(rng, 0.78, 1.22) * (1 + slope - vignette)
    blur = rng.uniform(0.35, 0.85)
    sigma = rng.uniform(*noise)
    grain = sigma * rng.standard_normal((SIZE, SIZE, channels), dtype=np.float32)
    return Light(gain[..., None].astype(np.float32), towards, blur, make_specks(rng), grain)


def expose(scene: np.ndarray, light: Light) -> np.ndarray:
    """(H, W, C) reflectance 0..1 under the lamp, through the lens, with a soft shoulder to white."""
    lit = scene * light.gain
    lit = np.where(lit > 0.75, 0.75 + 0.25 * np.tanh((lit - 0.75) / 0.25), lit)
    return 255 * soften(np.maximum(lit, 0.02).astype(np.float32), light.blur) + light.specks


def develop(image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """uint8 image, (H, W, 3) RGB or (H, W) grey."""
    levels = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    return levels[..., 0] if levels.shape[2] == 1 else levels


def changed(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """(H, W) bool mask of the pixels that visibly differ, with pinholes closed, hairs and specks dropped."""
    apart = (np.abs(good - bad).max(axis=2) >= VISIBLE).astype(np.uint8)
    apart = cv2.morphologyEx(apart, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - apart, connectivity=4)
    pinhole = stats[:, cv2.CC_STAT_AREA] < 40
    apart[pinhole[labels]] = 1
    apart = cv2.morphologyEx(apart, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(apart, connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= 12
    kept[0] = False
    return kept[labels]


# ---------------------------------------------------------------- washer

TEETH = 20
HOLES = 6
BORE, HOLE_CIRCLE, HOLE_RADIUS, ROOT = 0.36, 0.66, 0.085, 0.89  # in outer radii
FINE = 4  # the outline is painted this many times larger, then averaged down


@dataclass(frozen=True)
class Washer:
    """Everything that decides one washer image. Polar places are (outer radii, radians)."""

    light: Light
    centre: np.ndarray  # (2,) x, y
    radius: float  # outer radius in pixels
    angle: float  # of the keyway
    teeth: np.ndarray  # (TEETH,) height of each tooth, 1 = whole, 0 = broken off
    holes: np.ndarray  # (HOLES, 2) polar
    keyway: float  # depth in outer radii, 0 = not cut
    mark: tuple[str, float, float, float]  # text, polar place, tilt in radians
    dimple: tuple[float, float] | None  # polar place where a drill began and slipped away
    colour: np.ndarray  # (3,) of the metal
    finish: np.ndarray  # (H, W) relative brightness of the brushed face
    ground: np.ndarray  # (H, W, 3) reflectance of what the washer lies on


def make_washer(rng: Rng) -> Washer:
    """A random good washer."""
    light = make_light(rng, 3, (0.8, 2.2))
    centre = SIZE / 2 - 0.5 + rng.uniform(-9, 9, 2)
    radius = rng.uniform(99, 115)
    angle = rng.uniform(0, 2 * np.pi)
    spread = (np.arange(HOLES) + 0.5) * 2 * np.pi / HOLES
    holes = np.stack([np.full(HOLES, HOLE_CIRCLE), spread], axis=1)
    mark = (f"M{rng.integers(10, 99)}-{rng.integers(0, 9)}", HOLE_CIRCLE, np.pi, 0.0)
    warmth = rng.uniform(-0.08, 0.1)
    colour = rng.uniform(0.50, 0.66) * np.array([1 + warmth, 1, 1 - warmth])
    return Washer(
        light=light,
        centre=centre,
        radius=radius,
        angle=angle,
        teeth=rng.uniform(0.93, 1.0, TEETH),
        holes=holes,
        keyway=0.085,
        mark=mark,
        dimple=None,
        colour=colour.astype(np.float32),
        finish=brushed_finish(rng, centre, radius, light),
        ground=make_ground(rng),
    )


def brushed_finish(rng: Rng, centre: np.ndarray, radius: float, light: Light) -> np.ndarray:
    """(H, W) about 0.5..1.6: turning marks around the axis, with the fans of light they throw."""
    x, y = Columns - centre[0], Rows - centre[1]
    rho, theta = np.hypot(x, y), np.arctan2(y, x)
    grains = rng.standard_normal((160, 512), dtype=np.float32)
    marks = 7 * cv2.blur(np.tile(grains, (1, 2)), (97, 1))[:, 256:768]
    marks = marks + 0.6 * rng.standard_normal((160, 1), dtype=np.float32)
    across = ((theta + np.pi) / (2 * np.pi) * 511).astype(np.float32)
    streaks = cv2.remap(marks, across, (rho / radius * 150).astype(np.float32), cv2.INTER_LINEAR)
    lamp = np.arctan2(light.towards[1], light.towards[0])
    sway = 0.08 * smooth_noise(rng, 3, 3) + 0.02 * streaks
    main = np.abs(np.cos(theta - lamp + sway)) ** 7
    second = np.abs(np.cos(theta - lamp + rng.uniform(0.9, 1.4) + sway)) ** 16
    fans = rng.uniform(0.3, 0.55) * main + rng.uniform(0.08, 0.25) * second
    patina = 0.025 * smooth_noise(rng, 5, 5)
    depth = rng.uniform(0.018, 0.035)
    return (0.86 + fans * (1 + 0.08 * streaks) + depth * streaks + patina).astype(np.float32)


def make_ground(rng: Rng) -> np.ndarray:
    """(H, W, 3) a dark, slightly mottled mat."""
    tone = log_uniform(rng, 0.07, 0.26)
    tint = 1 + rng.uniform(-0.2, 0.2, 3)
    mottle = 1 + 0.06 * smooth_noise(rng, 6, 6) + 0.05 * smooth_noise(rng, 90, 90)
    grain = 0.05 * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    return (tone * tint * (mottle + grain)[..., None]).astype(np.float32)


def polar_to_pixels(washer: Washer, rho: Any, alpha: Any) -> np.ndarray:
    """(N, 2) x, y of polar places on the washer."""
    alpha = np.asarray(alpha) + washer.angle
    ring = np.asarray(rho) * washer.radius
    return washer.centre + np.stack([ring * np.cos(alpha), ring * np.sin(alpha)], axis=-1)


def gear_outline(washer: Washer) -> np.ndarray:
    """(6 * TEETH, 2) x, y of the outer edge; a broken tooth leaves a slightly uneven edge."""
    places = np.array([-0.5, -0.27, -0.17, 0.17, 0.27, 0.5])  # in tooth pitches
    tips = np.array([0, 0, 1, 1, 0, 0]) * washer.teeth[:, None]
    torn = np.where(washer.teeth[:, None] < 0.5, [0, 0.012, -0.018, 0.008, -0.01, 0], 0)
    alpha = (np.arange(TEETH)[:, None] + places) * 2 * np.pi / TEETH
    return polar_to_pixels(washer, (ROOT + (1 - ROOT) * tips + torn).ravel(), alpha.ravel())


def washer_cover(washer: Washer) -> np.ndarray:
    """(H, W) 0..1 share of each pixel that is metal."""
    canvas = np.zeros((SIZE * FINE, SIZE * FINE), np.uint8)
    shift = 4

    def fixed(points: np.ndarray) -> np.ndarray:
        return np.rint(((points + 0.5) * FINE - 0.5) * 2**shift).astype(np.int32)

    def disc(point: np.ndarray, radius: float) -> None:
        x, y = fixed(point).tolist()
        size = round(radius * washer.radius * FINE * 2**shift)
        cv2.circle(canvas, (x, y), size, 0, -1, cv2.LINE_8, shift)

    cv2.fillPoly(canvas, [fixed(gear_outline(washer))], 255, cv2.LINE_8, shift)
    disc(washer.centre, BORE)
    for point in polar_to_pixels(washer, washer.holes[:, 0], washer.holes[:, 1]):
        disc(point, HOLE_RADIUS)
    if washer.keyway:
        half, far = 0.075, BORE + washer.keyway
        rho = np.array([BORE * 0.8, far, far, BORE * 0.8])
        alpha = np.array([-half / 0.36, -half / 0.45, half / 0.45, half / 0.36])
        cv2.fillPoly(canvas, [fixed(polar_to_pixels(washer, rho, alpha))], 0, cv2.LINE_8, shift)
    small = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def stamped_mark(washer: Washer) -> np.ndarray:
    """(H, W) 0..1, the text stamped into the face."""
    text, rho, alpha, tilt = washer.mark
    stamp = np.zeros((80, 200), np.uint8)
    font, scale, weight = cv2.FONT_HERSHEY_SIMPLEX, 1.55, 5
    (width, height), _ = cv2.getTextSize(text, font, scale, weight)
    origin = ((200 - width) // 2, (80 + height) // 2)
    cv2.putText(stamp, text, origin, font, scale, 255, weight, cv2.LINE_AA)
    place = polar_to_pixels(washer, rho, alpha)
    turn = alpha + washer.angle + np.pi / 2 + tilt
    size = washer.radius / 380
    cos, sin = size * np.cos(turn), size * np.sin(turn)
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0]], np.float64)
    matrix[:, 2] = place - matrix[:, :2] @ np.array([99.5, 39.5])
    smooth = cv2.GaussianBlur(stamp, (0, 0), 1.2)
    return cv2.warpAffine(smooth, matrix, (SIZE, SIZE), flags=cv2.INTER_AREA).astype(np.float32) / 255


def inked(mark: np.ndarray) -> np.ndarray:
    """(H, W) bool footprint of a stamped mark: its letters, their rounded edges, narrow gaps."""
    letters = cv2.morphologyEx((mark > 0.1).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return cv2.dilate(letters, np.ones((3, 3), np.uint8)) > 0


def washer_relief(washer: Washer, cover: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """(H, W) height of the face in pixels: rounded edges, steps, countersinks, the stamp."""
    rho = np.hypot(Columns - washer.centre[0], Rows - washer.centre[1]) / washer.radius
    height = 2.6 * soften(cover, 1.3)
    height += 1.1 * smoothstep(0.47, 0.455, rho) + 1.3 * smoothstep(0.825, 0.85, rho)
    height -= 1.4 * smoothstep(BORE + 0.035, BORE, rho)
    near = np.full((SIZE, SIZE), np.inf, np.float32)
    for x, y in polar_to_pixels(washer, washer.holes[:, 0], washer.holes[:, 1]):
        near = np.minimum(near, np.hypot(Columns - x, Rows - y) / washer.radius)
    height -= 2.6 * np.clip(1 - (near - HOLE_RADIUS) / 0.042, 0, 1)
    if washer.dimple:
        x, y = polar_to_pixels(washer, *washer.dimple)
        height -= 1.5 * smoothstep(0.09, 0.06, np.hypot(Columns - x, Rows - y) / washer.radius)
    return (height - 1.0 * mark).astype(np.float32)


def draw_washer(washer: Washer) -> Layers:
    """The washer on its mat."""
    light = washer.light
    cover, mark = washer_cover(washer), stamped_mark(washer)
    dx, dy = slopes(washer_relief(washer, cover, mark))
    facing = -(dx * light.towards[0] + dy * light.towards[1])
    face = washer.finish * (1 + 0.62 * np.clip(facing, -0.9, 1.1)) * (1 - 0.48 * mark)
    x, y = (-2.2 * light.towards).tolist()
    moved = cv2.warpAffine(cover, np.array([[1, 0, x], [0, 1, y]]), (SIZE, SIZE))
    wall = np.clip(moved - cover, 0, 1)[..., None]
    cast = cv2.warpAffine(cover, np.array([[1, 0, 3 * x], [0, 1, 3 * y]]), (SIZE, SIZE))
    shade = 1 - 0.45 * soften(cast, 5) - 0.3 * soften(cover, 3)
    behind = washer.ground * shade[..., None]
    floor = behind * (1 - wall) + 0.34 * washer.colour * wall
    alpha = cover[..., None]
    scene = floor * (1 - alpha) + washer.colour * face[..., None] * alpha
    hollow = washer.ground * 0.55
    return Layers(expose(scene, light), expose(hollow, light), cover, light.noise, fray=0.2)


def washer_missing_part(washer: Washer, rng: Rng) -> Washer:
    """One to three neighbouring teeth broken off, or the keyway not cut."""
    if rng.random() < 0.2:
        return replace(washer, keyway=0.0)
    teeth = washer.teeth.copy()
    first = rng.integers(TEETH)
    for step in range(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15])):
        teeth[(first + step) % TEETH] = rng.uniform(-0.15, 0.3)
    return replace(washer, teeth=teeth)


def washer_misplaced(washer: Washer, rng: Rng) -> Washer:
    """The mark stamped askew, or a hole drilled beside its place, where the drill left a dimple."""
    if rng.random() < 0.35:
        text, rho, alpha, _ = washer.mark
        tilt = rng.choice([-1, 1]) * rng.uniform(0.45, 1.3)
        rho += rng.choice([-1, 1]) * rng.uniform(0.02, 0.07)
        return replace(washer, mark=(text, rho, alpha + rng.uniform(-0.1, 0.1), tilt))
    holes = washer.holes.copy()
    which = rng.integers(HOLES)
    dimple = float(holes[which, 0]), float(holes[which, 1])
    outwards = rng.choice([-1, 1]) * rng.uniform(0.02, 0.085)
    holes[which] += outwards, rng.choice([-1, 1]) * rng.uniform(0.12, 0.3)
    return replace(washer, holes=holes, dimple=dimple)


# ---------------------------------------------------------------- weave

YARNS = 64  # rows of the tables that yarns look their nature up in


@dataclass(frozen=True)
class Weave:
    """Everything that decides one weave image. Cloth coordinates count yarns."""

    light: Light
    across: np.ndarray  # (H, W) cloth coordinate over the warps (about vertical yarns)
    along: np.ndarray  # (H, W) cloth coordinate over the wefts
    tones: np.ndarray  # (2, YARNS) reflectance of each warp and weft
    widths: np.ndarray  # (2, YARNS) half width of each, in pitches
    fibre: np.ndarray  # (2, H, W) relative brightness of the fibres
    backing: float  # reflectance of what lies behind the cloth
    relief: float  # how strongly the light models the yarns
    gone: np.ndarray  # (2, H, W) bool, where warps or wefts are absent
    slack: float  # relative brightness and width of the yarns that lost the absent one
    seam: np.ndarray  # (H, W) relative brightness, dark along the edge of a patch


def make_weave(rng: Rng) -> Weave:
    """A random good piece of cloth: 2/2 twill, grey."""
    light = make_light(rng, 1, (1.2, 4.0))
    pitch, turn = rng.uniform(9.0, 11.5), rng.uniform(-0.2, 0.2)
    x, y = Columns - SIZE / 2, Rows - SIZE / 2
    x = x + rng.uniform(0.5, 1.8) * smooth_noise(rng, 4, 4)
    y = y + rng.uniform(0.5, 1.8) * smooth_noise(rng, 4, 4)
    phase = rng.uniform(0, 8, 2) + YARNS / 2
    dark = rng.random() < 0.7  # behind the cloth: a dark table, or a light table
    base = log_uniform(rng, 0.34, 0.66) if dark else rng.uniform(0.34, 0.56)
    step = rng.uniform(0.03, 0.14) * rng.choice([-1, 1])
    tones = np.array([[base + step], [base - step]]) * rng.normal(1, 0.055, (2, YARNS))
    shine = rng.standard_normal((2, SIZE, SIZE), dtype=np.float32)
    fibre = np.stack([cv2.blur(shine[0], (1, 9)), cv2.blur(shine[1], (9, 1))])
    return Weave(
        light=light,
        across=((np.cos(turn) * x + np.sin(turn) * y) / pitch + phase[0]).astype(np.float32),
        along=((np.cos(turn) * y - np.sin(turn) * x) / pitch + phase[1]).astype(np.float32),
        tones=tones.astype(np.float32),
        widths=np.clip(rng.normal(rng.uniform(0.4, 0.485), 0.018, (2, YARNS)), 0.37, 0.5).astype(np.float32),
        fibre=1 + rng.uniform(0.1, 0.3) * fibre,
        backing=rng.uniform(0.06, 0.15) if dark else rng.uniform(0.95, 1.15),
        relief=rng.uniform(0.45, 1.25),
        gone=np.zeros((2, SIZE, SIZE), bool),
        slack=1.0,
        seam=np.ones((SIZE, SIZE), np.float32),
    )


def yarn_surface(weave: Weave, which: int) -> tuple[np.ndarray, np.ndarray]:
    """Height (H, W), -9 where no yarn lies, and reflectance (H, W) of the warps (0) or wefts (1)."""
    over, run = (weave.across, weave.along) if which == 0 else (weave.along, weave.across)
    index = np.floor(over).astype(np.int32)
    inside = over - index - 0.5
    half = weave.widths[which][index % YARNS] * np.where(weave.gone[1 - which], 0.5 + 0.4 * weave.slack, 1)
    here = (np.abs(inside) < half) & ~weave.gone[which]
    crown = np.cos((index + run - (1 if which == 0 else 3)) * np.float32(np.pi / 2))
    round_ = np.sqrt(np.clip(1 - (inside / half) ** 2, 0, 1))
    height = np.where(here, 0.55 * crown + 0.9 * round_, -9)
    twist = 1 + 0.07 * np.cos(2 * np.pi * (1.7 * run + (1.1 if which else -1.1) * inside))
    tone = weave.tones[which][index % YARNS] * twist * weave.fibre[which]
    return height.astype(np.float32), tone.astype(np.float32)


def draw_weave(weave: Weave) -> Layers:
    """The cloth over its backing."""
    (warp, warp_tone), (weft, weft_tone) = yarn_surface(weave, 0), yarn_surface(weave, 1)
    top = np.maximum(warp, weft)
    gap = top < -5
    tone = np.where(warp > weft, warp_tone, weft_tone)
    depth = np.clip(0.5 + 0.36 * np.maximum(top, -1.2), 0, 1.1)
    dx, dy = slopes(np.clip(top, -0.8, 2) * 3)
    facing = -(dx * weave.light.towards[0] + dy * weave.light.towards[1])
    shade = 1 + weave.relief * (depth - 0.95 + 0.42 * np.clip(facing, -0.8, 0.8))
    behind = np.full((SIZE, SIZE), weave.backing, np.float32)
    slack = np.where(weave.gone.any(axis=0), weave.slack, 1) * weave.seam
    scene = np.where(gap, behind, tone * shade * slack)[..., None].astype(np.float32)
    hole = expose(behind[..., None], weave.light)
    cover = np.ones((SIZE, SIZE), np.float32)
    return Layers(expose(scene, weave.light), hole, cover, weave.light.noise, fray=0.7)


def weave_missing_part(weave: Weave, rng: Rng) -> tuple[Weave, np.ndarray]:
    """One yarn, sometimes two, absent over a length or right across; with the band as (H, W) bool.

    The yarns that crossed it hang slack: they lie deeper and thinner over the whole band.
    """
    which = int(rng.integers(2))
    over, run = (weave.across, weave.along) if which == 0 else (weave.along, weave.across)
    row, column = rng.integers(16, SIZE - 16, 2)
    low = np.floor(over[row, column])
    count = rng.choice([1, 2], p=[0.75, 0.25])
    half = rng.uniform(1.6, 9) if rng.random() < 0.8 else 99
    ends = half - 2.0 / count * (over - low - count / 2) ** 2
    band = (over >= low) & (over < low + count) & (np.abs(run - run[row, column]) < ends)
    gone = weave.gone.copy()
    gone[which] = band
    return replace(weave, gone=gone, slack=rng.uniform(0.78, 0.92)), band


def weave_misplaced(weave: Weave, rng: Rng) -> tuple[Weave, np.ndarray]:
    """A patch cut out and put back turned and shifted; with the patch as (H, W) bool."""
    x, y = rng.uniform(8, SIZE - 8, 2)
    axis = unit(rng.uniform(0, np.pi))
    long, wide = log_uniform(rng, 16, 48), rng.uniform(0.65, 1.0)
    u = np.abs((Columns - x) * axis[0] + (Rows - y) * axis[1]) / long
    v = np.abs((Rows - y) * axis[0] - (Columns - x) * axis[1]) / (long * wide)
    reach = (u**5 + v**5) ** 0.2
    patch = reach < 1
    turn = rng.choice([-1, 1]) * rng.uniform(0.45, 1.2)
    middle = weave.across[patch].mean(), weave.along[patch].mean()
    shift = rng.uniform(0.5, 3.5, 2)
    s, t = weave.across - middle[0], weave.along - middle[1]
    across = np.cos(turn) * s + np.sin(turn) * t + middle[0] + shift[0]
    along = np.cos(turn) * t - np.sin(turn) * s + middle[1] + shift[1]
    seam = 1 - rng.uniform(0.2, 0.5) * smoothstep(1 - 3 / long, 1, reach) * patch
    moved = replace(
        weave,
        across=np.where(patch, across, weave.across).astype(np.float32),
        along=np.where(patch, along, weave.along).astype(np.float32),
        seam=seam.astype(np.float32),
    )
    return moved, patch


# ---------------------------------------------------------------- defects on any surface


def pick_spot(cover: np.ndarray, rng: Rng, margin: int) -> tuple[float, float]:
    """x, y of a random place on the surface, `margin` pixels away from the surface's own edges."""
    side = 2 * margin + 1
    free = cv2.erode((cover > 0.9).astype(np.uint8), np.ones((side, side), np.uint8))
    places = np.flatnonzero(free if free.any() else cover > 0.9)
    row, column = divmod(int(rng.choice(places)), SIZE)
    return float(column), float(row)


def blob_distance(rng: Rng, x: float, y: float, radius: float, wobble: float) -> np.ndarray:
    """(H, W) pixels from the outline of an uneven disc around x, y; negative inside."""
    theta = np.arctan2(Rows - y, Columns - x)
    edge = np.ones((SIZE, SIZE), np.float32)
    for waves in range(2, 7):
        edge += wobble * rng.normal() / waves * np.cos(waves * theta + rng.uniform(0, 2 * np.pi))
    stretch = rng.uniform(1, 1 + wobble)
    axis = unit(rng.uniform(0, np.pi))
    u = (Columns - x) * axis[0] + (Rows - y) * axis[1]
    v = (Rows - y) * axis[0] - (Columns - x) * axis[1]
    return np.hypot(u / stretch, v * stretch) - radius * np.clip(edge, 0.5, 1.6)


def scratch_path(rng: Rng, x: float, y: float, direction: float, length: float) -> np.ndarray:
    """(1, N, 2) int32 x, y along a gently bent line through x, y."""
    t = np.linspace(-0.5, 0.5, 24)
    bend = rng.normal(0, 0.5)
    heading = direction + bend * t + 0.1 * rng.normal() * np.sin(t * rng.uniform(4, 12))
    step = length / t.size
    points = np.stack([np.cumsum(np.cos(heading)), np.cumsum(np.sin(heading))], axis=1) * step
    points += np.array([x, y]) - points[t.size // 2]
    return np.rint(points).astype(np.int32)[None]


def scratch(layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Thin lines, one to five, bright or dark, a pixel wide or a few; image and mask."""
    image, total = layers.image.copy(), np.zeros((SIZE, SIZE), bool)
    texture = float(np.abs(layers.image - soften(layers.image, 4)).mean())
    width = int(rng.choice([1, 2, 3], p=[0.45, 0.3, 0.25]))
    direction = rng.uniform(0, np.pi)
    strength = log_uniform(rng, 22, 65) + 2.2 * texture
    sign = rng.choice([-1, 1])
    for _ in range(rng.choice([1, 2, 3, 5], p=[0.5, 0.2, 0.2, 0.1])):
        x, y = pick_spot(layers.cover, rng, 4)
        path = scratch_path(rng, x, y, direction + rng.normal(0, 0.25), log_uniform(rng, 20, 150))
        canvas = np.zeros((SIZE, SIZE), np.uint8)
        cv2.polylines(canvas, [path], False, 1, width, cv2.LINE_8)
        line = (canvas > 0) & (layers.cover > 0.9)
        around = float(layers.image[line].mean()) if line.any() else 128.0
        if not 15 < around + sign * strength < 240:
            sign = -sign
        level = strength * (1 + 0.25 * smooth_noise(rng, 12, 12)).clip(0.6, 1.4)
        if width == 3:  # a burr along one side shines the other way
            aside = np.rint(1.6 * unit(direction + np.pi / 2)).astype(np.int32)
            burr = cv2.polylines(np.zeros((SIZE, SIZE), np.uint8), [path + aside], False, 1, 1, cv2.LINE_8)
            level = np.where(burr > 0, -0.8 * level, level)
        image += np.where(line & ~total, sign * level, 0)[..., None].astype(np.float32)
        total |= line
    return image, total


def hole(layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Round ragged holes that show what lies behind, with a torn rim; image and mask."""
    image, total = layers.image.copy(), np.zeros((SIZE, SIZE), bool)
    lamp = rng.uniform(0, 2 * np.pi)
    bright = float(layers.behind.mean() - layers.image.mean()) > 0
    for _ in range(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])):
        radius = log_uniform(rng, 3, 14)
        x, y = pick_spot(layers.cover, rng, round(min(radius, 9)) + 2 if layers.cover.min() < 1 else 2)
        apart = blob_distance(rng, x, y, radius, 0.12) + layers.fray * smooth_noise(rng, 80, 80)
        rim = rng.uniform(1.2, 2.0) + 0.05 * radius
        facing = np.cos(np.arctan2(Rows - y, Columns - x) - lamp)
        torn = -0.35 if bright else 0.3 + 0.2 * facing
        burr = 1 + torn * smoothstep(rim + 0.5, 0.5, apart)
        depth = 1.0 if bright else 0.8 + 0.2 * smoothstep(0, -5, apart)[..., None]
        soft = 0.9 + 1.2 * layers.fray  # at least as soft as the lens
        inside = smoothstep(soft, -soft, apart)[..., None]
        image = image * burr[..., None] * (1 - inside) + layers.behind * depth * inside
        total |= (apart < rim) & (layers.cover > 0.5)
    return image.astype(np.float32), total


STAIN_GAINS = {
    1: np.array([[-0.62], [-0.5], [0.6], [0.5]]),
    3: np.array([[-0.28, -0.44, -0.6], [-0.48, -0.46, -0.4], [0.4, 0.38, 0.32], [0.28, 0.1, -0.28]]),
}  # rust or tea, oil, residue, tarnish: relative change of each channel at full strength


def stain_shape(rng: Rng, x: float, y: float, radius: float, ring: bool) -> np.ndarray:
    """(H, W) 0..1, a soft blob with a tide mark, or a ring with nothing in the middle."""
    apart = blob_distance(rng, x, y, radius, 0.12 if ring else 0.25) / radius
    apart += 0.05 * smooth_noise(rng, 40, 40)
    if ring:
        return np.exp(-(((apart + 0.12) / 0.17) ** 2))
    tide = 0.4 * np.exp(-(((apart + 0.1) / 0.1) ** 2))
    return np.clip(smoothstep(0.12, -0.45, apart) * 0.8 + tide, 0, 1)


def stain(layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Soft discoloured blobs or rings, darker or lighter; image and mask."""
    gains = STAIN_GAINS[layers.image.shape[2]]
    gain = gains[rng.integers(len(gains))] * rng.uniform(0.5 if len(gains[0]) == 3 else 0.65, 1.0)
    ring = rng.random() < 0.35
    spots = int(rng.choice([1, 2, 3] if ring else [1, 3, 6], p=[0.6, 0.25, 0.15]))
    alpha = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(spots):
        radius = log_uniform(rng, 11, 32) if ring or spots == 1 else log_uniform(rng, 5.5, 13)
        x, y = pick_spot(layers.cover, rng, 3)
        alpha = np.maximum(alpha, stain_shape(rng, x, y, radius, ring))
    change = alpha[..., None] * gain
    image = layers.image * (1 + change) + 8 * change
    mask = (np.abs(change).max(axis=2) > 0.09) & (layers.cover > 0.6)
    return image.astype(np.float32), mask


# ---------------------------------------------------------------- images

Scene = Washer | Weave
MAKERS: dict[str, Callable[[Rng], Scene]] = {"washer": make_washer, "weave": make_weave}
ON_SURFACE = {"scratch": scratch, "hole": hole, "stain": stain}


def draw(scene: Scene) -> Layers:
    """The scene without noise."""
    return draw_washer(scene) if isinstance(scene, Washer) else draw_weave(scene)


def render_good(category: str, rng: Rng) -> np.ndarray:
    """uint8 good image, (256, 256, 3) RGB for `washer`, (256, 256) for `weave`."""
    layers = draw(MAKERS[category](rng))
    return develop(layers.image, layers.noise)


def restructure(scene: Scene, good: np.ndarray, defect: str, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """The scene drawn again with a part missing or misplaced; image and mask."""
    if isinstance(scene, Washer):
        change = washer_missing_part if defect == "missing_part" else washer_misplaced
        other = change(scene, rng)
        image = draw(other).image
        if other.mark != scene.mark:
            return image, inked(stamped_mark(scene)) | inked(stamped_mark(other))
        return image, changed(good, image)
    alter = weave_missing_part if defect == "missing_part" else weave_misplaced
    moved, mask = alter(scene, rng)
    return draw(moved).image, mask


def render_defect(category: str, defect: str, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """uint8 image with a defect, and its (256, 256) uint8 mask of 0 and 255.

    Outside the mask the image is `render_good` of a generator in the same state.
    """
    scene = MAKERS[category](rng)
    layers = draw(scene)
    good = develop(layers.image, layers.noise)
    mask = np.zeros((SIZE, SIZE), bool)
    while mask.sum() < 8:  # a defect that fell off the product is drawn again
        if defect in ON_SURFACE:
            image, mask = ON_SURFACE[defect](layers, rng)
        else:
            image, mask = restructure(scene, layers.image, defect, rng)
    bad = develop(image, layers.noise)
    where = mask if good.ndim == 2 else mask[..., None]
    return np.where(where, bad, good), mask.astype(np.uint8) * 255


def encode(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 RGB or grey image."""
    if image.ndim == 3:
        image = image[..., ::-1]  # cv2 takes BGR
    settings = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]  # noise: faster and smaller
    return cv2.imencode(".png", image, settings)[1].tobytes()


def render_files(seed: int, category: str, kind: str, number: int) -> dict[str, bytes]:
    """The files of one image, named relative to the category's folder."""
    rng = image_rng(seed, category, kind, number)
    if kind not in DEFECTS:
        return {f"{kind}/{number:03d}.png": encode(render_good(category, rng))}
    image, mask = render_defect(category, kind, rng)
    return {
        f"test/{kind}/{number:03d}.png": encode(image),
        f"ground_truth/{kind}/{number:03d}_mask.png": encode(mask),
    }
