"""The washer, a toothed ring of brushed metal: how it is drawn, and its own two defects."""

from dataclasses import dataclass, replace
from typing import Any, Self

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
    make_ground,
    make_light,
    slopes,
    smooth_noise,
    smoothstep,
    soften,
)
from converters.synthetic.product import SampleProduct

TEETH = 20
HOLES = 6
BORE, HOLE_CIRCLE, HOLE_RADIUS, ROOT = 0.36, 0.66, 0.085, 0.89  # in outer radii
FINE = 4  # the outline is painted this many times larger, then averaged down


@dataclass(frozen=True)
class Washer(SampleProduct):
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

    @classmethod
    def random(cls, rng: Rng) -> Self:
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
        return cls(
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

    def draw(self) -> Layers:
        """The washer on its mat."""
        light = self.light
        cover, mark = self._cover(), self._stamp()
        dx, dy = slopes(self._relief(cover, mark))
        facing = -(dx * light.towards[0] + dy * light.towards[1])
        face = self.finish * (1 + 0.62 * np.clip(facing, -0.9, 1.1)) * (1 - 0.48 * mark)
        x, y = (-2.2 * light.towards).tolist()
        moved = cv2.warpAffine(cover, np.array([[1, 0, x], [0, 1, y]]), (SIZE, SIZE))
        wall = np.clip(moved - cover, 0, 1)[..., None]
        cast = cv2.warpAffine(cover, np.array([[1, 0, 3 * x], [0, 1, 3 * y]]), (SIZE, SIZE))
        shade = 1 - 0.45 * soften(cast, 5) - 0.3 * soften(cover, 3)
        behind = self.ground * shade[..., None]
        floor = behind * (1 - wall) + 0.34 * self.colour * wall
        alpha = cover[..., None]
        scene = floor * (1 - alpha) + self.colour * face[..., None] * alpha
        hollow = self.ground * 0.55
        return Layers(expose(scene, light), expose(hollow, light), cover, light.noise, fray=0.2)

    def missing_part(self, rng: Rng) -> tuple[Self, None]:
        """One to three neighbouring teeth broken off, or the keyway not cut."""
        if rng.random() < 0.2:
            return replace(self, keyway=0.0), None
        teeth = self.teeth.copy()
        first = rng.integers(TEETH)
        for step in range(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15])):
            teeth[(first + step) % TEETH] = rng.uniform(-0.15, 0.3)
        return replace(self, teeth=teeth), None

    def misplaced(self, rng: Rng) -> tuple[Self, np.ndarray | None]:
        """The mark stamped askew, or a hole drilled beside its place, where the drill left a dimple."""
        if rng.random() < 0.35:
            text, rho, alpha, _ = self.mark
            tilt = rng.choice([-1, 1]) * rng.uniform(0.45, 1.3)
            rho += rng.choice([-1, 1]) * rng.uniform(0.02, 0.07)
            askew = replace(self, mark=(text, rho, alpha + rng.uniform(-0.1, 0.1), tilt))
            return askew, inked(self._stamp()) | inked(askew._stamp())
        holes = self.holes.copy()
        which = rng.integers(HOLES)
        dimple = float(holes[which, 0]), float(holes[which, 1])
        outwards = rng.choice([-1, 1]) * rng.uniform(0.02, 0.085)
        holes[which] += outwards, rng.choice([-1, 1]) * rng.uniform(0.12, 0.3)
        return replace(self, holes=holes, dimple=dimple), None

    def _cover(self) -> np.ndarray:
        """(H, W) 0..1 share of each pixel that is metal."""
        canvas = np.zeros((SIZE * FINE, SIZE * FINE), np.uint8)
        shift = 4

        def fixed(points: np.ndarray) -> np.ndarray:
            return np.rint(((points + 0.5) * FINE - 0.5) * 2**shift).astype(np.int32)

        def disc(point: np.ndarray, radius: float) -> None:
            x, y = fixed(point).tolist()
            size = round(radius * self.radius * FINE * 2**shift)
            cv2.circle(canvas, (x, y), size, 0, -1, cv2.LINE_8, shift)

        cv2.fillPoly(canvas, [fixed(self._outline())], 255, cv2.LINE_8, shift)
        disc(self.centre, BORE)
        for point in self._pixels(self.holes[:, 0], self.holes[:, 1]):
            disc(point, HOLE_RADIUS)
        if self.keyway:
            half, far = 0.075, BORE + self.keyway
            rho = np.array([BORE * 0.8, far, far, BORE * 0.8])
            alpha = np.array([-half / 0.36, -half / 0.45, half / 0.45, half / 0.36])
            cv2.fillPoly(canvas, [fixed(self._pixels(rho, alpha))], 0, cv2.LINE_8, shift)
        small = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) / 255

    def _outline(self) -> np.ndarray:
        """(6 * TEETH, 2) x, y of the outer edge; a broken tooth leaves a slightly uneven edge."""
        places = np.array([-0.5, -0.27, -0.17, 0.17, 0.27, 0.5])  # in tooth pitches
        tips = np.array([0, 0, 1, 1, 0, 0]) * self.teeth[:, None]
        torn = np.where(self.teeth[:, None] < 0.5, [0, 0.012, -0.018, 0.008, -0.01, 0], 0)
        alpha = (np.arange(TEETH)[:, None] + places) * 2 * np.pi / TEETH
        return self._pixels((ROOT + (1 - ROOT) * tips + torn).ravel(), alpha.ravel())

    def _stamp(self) -> np.ndarray:
        """(H, W) 0..1, the text stamped into the face."""
        text, rho, alpha, tilt = self.mark
        stamp = np.zeros((80, 200), np.uint8)
        font, scale, weight = cv2.FONT_HERSHEY_SIMPLEX, 1.55, 5
        (width, height), _ = cv2.getTextSize(text, font, scale, weight)
        origin = ((200 - width) // 2, (80 + height) // 2)
        cv2.putText(stamp, text, origin, font, scale, 255, weight, cv2.LINE_AA)
        place = self._pixels(rho, alpha)
        turn = alpha + self.angle + np.pi / 2 + tilt
        size = self.radius / 380
        cos, sin = size * np.cos(turn), size * np.sin(turn)
        matrix = np.array([[cos, -sin, 0], [sin, cos, 0]], np.float64)
        matrix[:, 2] = place - matrix[:, :2] @ np.array([99.5, 39.5])
        smooth = cv2.GaussianBlur(stamp, (0, 0), 1.2)
        return cv2.warpAffine(smooth, matrix, (SIZE, SIZE), flags=cv2.INTER_AREA).astype(np.float32) / 255

    def _relief(self, cover: np.ndarray, mark: np.ndarray) -> np.ndarray:
        """(H, W) height of the face in pixels: rounded edges, steps, countersinks, the stamp."""
        rho = np.hypot(Columns - self.centre[0], Rows - self.centre[1]) / self.radius
        height = 2.6 * soften(cover, 1.3)
        height += 1.1 * smoothstep(0.47, 0.455, rho) + 1.3 * smoothstep(0.825, 0.85, rho)
        height -= 1.4 * smoothstep(BORE + 0.035, BORE, rho)
        near = np.full((SIZE, SIZE), np.inf, np.float32)
        for x, y in self._pixels(self.holes[:, 0], self.holes[:, 1]):
            near = np.minimum(near, np.hypot(Columns - x, Rows - y) / self.radius)
        height -= 2.6 * np.clip(1 - (near - HOLE_RADIUS) / 0.042, 0, 1)
        if self.dimple:
            x, y = self._pixels(*self.dimple)
            height -= 1.5 * smoothstep(0.09, 0.06, np.hypot(Columns - x, Rows - y) / self.radius)
        return (height - 1.0 * mark).astype(np.float32)

    def _pixels(self, rho: Any, alpha: Any) -> np.ndarray:
        """(N, 2) x, y of polar places on the washer."""
        alpha = np.asarray(alpha) + self.angle
        ring = np.asarray(rho) * self.radius
        return self.centre + np.stack([ring * np.cos(alpha), ring * np.sin(alpha)], axis=-1)


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


def inked(mark: np.ndarray) -> np.ndarray:
    """(H, W) bool footprint of a stamped mark: its letters, their rounded edges, narrow gaps."""
    letters = cv2.morphologyEx((mark > 0.1).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return cv2.dilate(letters, np.ones((3, 3), np.uint8)) > 0
