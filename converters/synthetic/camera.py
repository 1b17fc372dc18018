"""Light, noise and exposure of a synthetic image, and small tools to draw with."""

from dataclasses import dataclass

import cv2
import numpy as np

SIZE = 256
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


def make_ground(rng: Rng) -> np.ndarray:
    """(H, W, 3) a dark, slightly mottled mat."""
    tone = log_uniform(rng, 0.07, 0.26)
    tint = 1 + rng.uniform(-0.2, 0.2, 3)
    mottle = 1 + 0.06 * smooth_noise(rng, 6, 6) + 0.05 * smooth_noise(rng, 90, 90)
    grain = 0.05 * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    return (tone * tint * (mottle + grain)[..., None]).astype(np.float32)
