"""Scratch, hole and stain, on any product of the sample."""

import cv2
import numpy as np

from converters.synthetic.camera import (
    SIZE,
    Columns,
    Layers,
    Rng,
    Rows,
    log_uniform,
    smooth_noise,
    smoothstep,
    soften,
    unit,
)


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
