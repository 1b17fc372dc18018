"""The plank, sawn wood: how it is drawn, and its own five defects. Grain coordinates: u across, v along."""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from converters.synthetic.camera import (
    SIZE,
    Columns,
    Layers,
    Light,
    Rng,
    Rows,
    expose,
    log_uniform,
    make_light,
    slopes,
    smooth_noise,
    smoothstep,
    soften,
    unit,
)
from converters.synthetic.product import Product

ROOM = 384  # px a side of the straight-grained board, of which the camera sees a turned piece
WOODS = ((0.74, 0.56, 0.37), (0.62, 0.43, 0.27), (0.45, 0.29, 0.18), (0.80, 0.70, 0.54), (0.55, 0.33, 0.22))


@dataclass(frozen=True)
class Plank(Product):
    """Everything that decides one image of a plank."""

    light: Light
    scene: np.ndarray  # (H, W, 3) reflectance
    angle: float  # of the grain, radians from the x axis

    DEFECTS = ("crack", "knot", "resin", "dent", "burn")

    @classmethod
    def random(cls, rng: Rng) -> Self:
        """A random good plank: growth rings, fibres, pores, and at times the joint of two boards."""
        turn = rng.choice([0, 90]) + rng.uniform(-25, 25)
        matrix = cv2.getRotationMatrix2D((ROOM / 2, ROOM / 2), turn, rng.uniform(0.95, 1.3))
        matrix[:, 2] = matrix[:, 2] + (SIZE - ROOM) / 2
        tone = cv2.warpAffine(straight_grain(rng), matrix, (SIZE, SIZE))
        colour = np.array(WOODS[rng.integers(len(WOODS))]) * rng.uniform(0.85, 1.12) + rng.normal(0, 0.015, 3)
        depth = tone[..., None] * np.array([0.85, 1.0, 1.2])  # what is darker is redder
        return cls(make_light(rng, 3, (0.8, 2.6)), (colour * np.exp(depth)).astype(np.float32), -np.deg2rad(turn))

    def draw(self) -> Layers:
        """The plank's surface."""
        behind = expose(np.full_like(self.scene, 0.05), self.light)
        cover = np.ones((SIZE, SIZE), np.float32)
        return Layers(expose(self.scene, self.light), behind, cover, self.light.noise, fray=0.8)

    def damaged(self, defect: str, layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Described in Product."""
        paint = {
            "crack": self._crack, "knot": self._knot, "resin": self._resin, "dent": self._dent, "burn": self._burn,
        }[defect]  # fmt: skip
        return paint(layers.image, rng)

    def _grain(self, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) px across (u) and along (v) the grain from x, y."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return (Rows - y) * cos - (Columns - x) * sin, (Columns - x) * cos + (Rows - y) * sin

    def _crack(self, image: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Clefts along the grain, at times with a branch: dark, tapered, one lip catching the light."""
        mask, dark, lip = np.zeros((SIZE, SIZE), bool), np.zeros_like(Rows), np.zeros_like(Rows)
        for _ in range(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
            x, y = rng.uniform(10, SIZE - 10, 2)
            u, v = self._grain(x, y)
            half, widest = log_uniform(rng, 10, 90), log_uniform(rng, 0.8, 5)
            steps = np.cumsum(rng.normal(0, 1, 2 * SIZE) * rng.uniform(0.25, 0.8))
            lean = rng.normal(0, 0.09)
            bend = np.interp(v, np.linspace(-SIZE, SIZE, steps.size), steps - steps[SIZE]) + lean * v
            width = widest * np.sqrt(np.clip(1 - np.abs(v) / half, 0, 1)) * (1 + 0.25 * smooth_noise(rng, 60, 60))
            apart = np.abs(u - bend) - width
            here = np.abs(v) < half
            dark = np.maximum(dark, smoothstep(0.7, -0.7, apart) * here)
            lip = np.maximum(lip, smoothstep(1.6, 0.4, np.abs(u - bend - width - 1)) * here * (u > bend))
            mask |= (apart < 0.5) & here
        floor = rng.uniform(0.12, 0.4)
        lip = lip * (1 - dark) * rng.uniform(0.1, 0.35) * mask
        return (image * (1 - (1 - floor) * dark + lip)[..., None]).astype(np.float32), mask & (dark > 0.25)

    def _knot(self, image: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """A knot: rings around its own pith, a dark bark around it, cracks like a star; at times fallen out."""
        x, y = rng.uniform(6, SIZE - 6, 2)
        u, v = self._grain(x, y)
        radius, long = log_uniform(rng, 5, 24), rng.uniform(1.0, 1.8)
        rho = np.hypot(u, v / long) / radius + 0.05 * smooth_noise(rng, 25, 25)
        rings = np.cos(2 * np.pi * (rho * rng.uniform(2.5, 5) + 0.15 * smooth_noise(rng, 12, 12)))
        star = np.abs(np.sin((np.arctan2(v, u) + 0.3 * smooth_noise(rng, 10, 10)) * rng.integers(1, 4)))
        check = smoothstep(0.12, 0.02, star) * smoothstep(0.9, 0.5, rho)
        shade = rng.uniform(0.36, 0.62) * (1 + 0.22 * rings) * (1 - 0.6 * check)
        if rng.random() < 0.3:  # fallen out: a hole with a rough floor
            shade = np.where(rho < 0.8, 0.16 + 0.05 * smooth_noise(rng, 50, 50), shade)
        shade = shade * (1 - 0.55 * np.exp(-(((rho - 0.95) / 0.1) ** 2)))
        alpha = smoothstep(1.12, 0.98, rho)
        factor = 1 + alpha * (np.clip(shade, 0.05, 1) - 1)
        return (image * factor[..., None]).astype(np.float32), alpha > 0.25

    def _resin(self, image: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Lenses and drops of resin: clear amber, or dried white, with a glossy streak."""
        total, mask = image.copy(), np.zeros((SIZE, SIZE), bool)
        tint = np.array([0.86, 0.52, 0.2] if rng.random() < 0.6 else [1.55, 1.6, 1.65]) * rng.uniform(0.85, 1.05)
        spot = rng.uniform(20, SIZE - 20, 2)
        for _ in range(rng.choice([1, 2, 4], p=[0.5, 0.3, 0.2])):
            x, y = np.clip(spot + rng.normal(0, 22, 2), 3, SIZE - 3)
            u, v = self._grain(x, y)
            wide, long = log_uniform(rng, 2, 9), log_uniform(rng, 1.2, 7)
            inside = 1 - np.hypot(u / wide, v / (wide * long)) + 0.12 * smooth_noise(rng, 30, 30)
            alpha = smoothstep(-0.05, 0.15, inside)
            gloss = np.exp(-(((u / wide + 0.35) / 0.16) ** 2)) * smoothstep(0.2, 0.5, inside)
            total = total * (1 - alpha[..., None] * (1 - tint)) + (85 * gloss * alpha)[..., None]
            mask |= alpha > 0.35
        return total.astype(np.float32), mask

    def _dent(self, image: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """A blow's mark, round, square or long: one wall in the light, the other in shadow, the grain unbroken."""
        x, y = rng.uniform(12, SIZE - 12, 2)
        axis = unit(rng.uniform(0, np.pi))
        u = (Columns - x) * axis[0] + (Rows - y) * axis[1]
        v = (Rows - y) * axis[0] - (Columns - x) * axis[1]
        size, flat = log_uniform(rng, 5, 24), rng.uniform(0.3, 1.0)
        power = rng.choice([2.0, 6.0])
        reach = (np.abs(u / size) ** power + np.abs(v / (size * flat)) ** power) ** (1 / power)
        steep = rng.uniform(0.25, 0.8)
        height = -size * flat * 0.5 * smoothstep(1, 1 - steep, reach)
        dx, dy = slopes(height.astype(np.float32))
        facing = -(dx * self.light.towards[0] + dy * self.light.towards[1])
        inside = reach < 1
        shade = (0.62 * np.tanh(1.6 * facing) - rng.uniform(0.12, 0.25)) * inside
        return (image * (1 + shade)[..., None]).astype(np.float32), inside

    def _burn(self, image: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Marks of a dull saw or a hot tool: brown bands across the grain in bows, soft at their ends."""
        x, y = rng.uniform(15, SIZE - 15, 2)
        u, v = self._grain(x, y)
        reach, tall = log_uniform(rng, 9, 50), log_uniform(rng, 6, 22)
        bow = v + u * u / rng.uniform(150, 500) * rng.choice([-1, 1])
        stripes = 0.75 + 0.25 * np.cos(2 * np.pi * bow / rng.uniform(5, 14))
        inside = smoothstep(1.05, 0.6, np.hypot(u / reach, bow / tall) + 0.1 * smooth_noise(rng, 16, 16))
        strength = inside * stripes * rng.uniform(0.4, 0.85)
        gain = 1 - strength[..., None] * np.array([0.62, 0.78, 0.88])
        mask = strength > 0.14
        return (image * gain).astype(np.float32), mask


def straight_grain(rng: Rng) -> np.ndarray:
    """(ROOM, ROOM) logarithm of relative brightness; the grain runs along the rows."""

    def noise(rows: int, columns: int) -> np.ndarray:
        coarse = rng.standard_normal((rows, columns), dtype=np.float32)
        return cv2.resize(coarse, (ROOM, ROOM), interpolation=cv2.INTER_CUBIC)

    across = np.linspace(-1, 1, ROOM, dtype=np.float32)[:, None]
    bow = rng.uniform(0, 5) * (across - rng.uniform(-1, 1)) ** 2  # flat-sawn boards show wide rings in the middle
    ring = across * rng.uniform(4, 14) + bow + rng.uniform(0.2, 1.0) * noise(6, 2) + 0.12 * noise(24, 3)
    phase = ring - np.floor(ring)
    late = smoothstep(0.3, 1.0, phase) * smoothstep(1.0, 0.93, phase)  # dark late wood, then a sharp edge
    fibres = cv2.blur(rng.standard_normal((ROOM, ROOM), dtype=np.float32), (41, 1)) * 6
    pores = np.zeros((ROOM, ROOM), np.float32)
    for row, column, length in rng.integers((0, 0, 3), (ROOM, ROOM, 16), (int(rng.integers(0, 350)), 3)):
        pores[row, column : column + length] = -rng.uniform(0.15, 0.4)
    tone = -rng.uniform(0.12, 0.4) * late + rng.uniform(0.02, 0.06) * fibres + pores + 0.05 * noise(5, 3)
    if rng.random() < 0.35:
        joint = int(rng.integers(ROOM // 4, 3 * ROOM // 4))
        tone[joint:] = np.roll(tone[joint:], int(rng.integers(40, 200)), axis=1) + rng.normal(0, 0.1)
        tone[joint - 1 : joint + 1] -= 0.9
    return soften(tone.astype(np.float32), 0.7)
