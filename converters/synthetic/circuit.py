"""The circuit, a printed board without its components: how it is drawn, and its own five defects.

A board is drawn flat, ROOM px a side in rows of traces and of footprints, and then laid under the camera askew.
"""

from dataclasses import dataclass, replace
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
    changed,
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

ROOM = 384  # px a side of the flat board
LACQUERS = ((0.06, 0.34, 0.17), (0.06, 0.17, 0.40), (0.46, 0.08, 0.08), (0.08, 0.08, 0.09), (0.74, 0.75, 0.73))
METALS = ((0.70, 0.71, 0.70), (0.82, 0.66, 0.34))  # tin, gold
COPPER, LAMINATE = (0.74, 0.44, 0.27), (0.66, 0.60, 0.40)


@dataclass(frozen=True)
class Circuit(Product):
    """Everything that decides one image of a circuit. All fields are 0..1 shares of each pixel."""

    light: Light
    copper: np.ndarray  # (H, W) traces, under the lacquer
    pads: np.ndarray  # (H, W) bare metal
    drills: np.ndarray  # (H, W)
    marks: np.ndarray  # (H, W) marks in white or black
    lacquer: np.ndarray  # (3,)
    metal: np.ndarray  # (3,)
    ink: float  # reflectance of the marks
    mottle: np.ndarray  # (H, W) relative brightness of the laminate's glass fibres

    DEFECTS = ("open", "bridge", "splash", "flake", "fingerprint")

    @classmethod
    def random(cls, rng: Rng) -> Self:
        """A random good board."""
        flat = draw_board(rng)
        turn = rng.choice([0, 90, 180, 270]) + rng.uniform(-14, 14)
        matrix = cv2.getRotationMatrix2D((ROOM / 2, ROOM / 2), turn, rng.uniform(0.85, 1.35))
        matrix[:, 2] = matrix[:, 2] + (SIZE - ROOM) / 2 + rng.uniform(-20, 20, 2)
        copper, pads, drills, marks = (
            cv2.warpAffine(layer, matrix, (SIZE, SIZE)).astype(np.float32) / 255 for layer in flat
        )
        lacquer = np.array(LACQUERS[rng.integers(len(LACQUERS))]) * rng.uniform(0.8, 1.2)
        weave = np.cos(Columns * rng.uniform(0.5, 1.2)) + np.cos(Rows * rng.uniform(0.5, 1.2))
        return cls(
            light=make_light(rng, 3, (0.8, 2.4)),
            copper=copper,
            pads=pads,
            drills=drills,
            marks=marks,
            lacquer=lacquer.astype(np.float32),
            metal=np.array(METALS[rng.integers(2)], np.float32) * np.float32(rng.uniform(0.85, 1.1)),
            ink=0.9 if lacquer.mean() < 0.5 else 0.08,
            mottle=1 + 0.02 * weave + 0.04 * smooth_noise(rng, 5, 5) + 0.03 * smooth_noise(rng, 120, 120),
        )

    def draw(self) -> Layers:
        """The board, with light on the edges of its copper."""
        under = self.lacquer * 1.35 + 0.06
        copper, pads = self.copper[..., None], self.pads[..., None]
        scene = (self.lacquer * (1 - copper) + under * copper) * self.mottle[..., None]
        scene = scene * (1 - self.marks[..., None]) + self.ink * self.marks[..., None]
        scene = scene * (1 - pads) + self.metal * pads
        dx, dy = slopes(soften(1.0 * self.copper + 2.2 * self.pads, 1.1))
        facing = -(dx * self.light.towards[0] + dy * self.light.towards[1])
        scene = scene * (1 + 0.5 * np.clip(facing, -0.8, 0.8))[..., None] * (1 - 0.93 * self.drills[..., None])
        hole = np.full_like(scene, 0.03)
        cover = np.ones((SIZE, SIZE), np.float32)
        return Layers(expose(scene, self.light), expose(hole, self.light), cover, self.light.noise, fray=0.4)

    def damaged(self, defect: str, layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Described in Product."""
        if defect in ("open", "bridge"):
            image = (self._open(rng) if defect == "open" else self._bridge(rng)).draw().image
            return image, changed(layers.image, image)
        return {"splash": self._splash, "flake": self._flake, "fingerprint": self._fingerprint}[defect](layers, rng)

    def _open(self, rng: Rng) -> Self:
        """One to three ragged gaps in traces, etched away."""
        copper = self.copper.copy()
        for _ in range(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
            y, x = pick(copper * (1 - self.pads) > 0.9, rng)
            copper *= smoothstep(-0.8, 0.8, ragged(rng, x, y, log_uniform(rng, 4, 11), 1.6))
        return replace(self, copper=copper)

    def _bridge(self, rng: Rng) -> Self:
        """Copper left standing beside a trace, which it may join with the next, or bare metal beside a pad."""
        bare = rng.random() < 0.4 and self.pads.max() > 0.9
        layer = self.pads if bare else self.copper
        band = cv2.dilate((layer > 0.5).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        grown = layer.copy()
        for _ in range(rng.choice([1, 2], p=[0.7, 0.3])):
            y, x = pick(band & (layer < 0.1), rng)
            grown = np.maximum(grown, smoothstep(0.8, -0.8, ragged(rng, x, y, log_uniform(rng, 3.5, 10), 1.2)))
        return replace(self, pads=grown) if bare else replace(self, copper=grown)

    def _splash(self, layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Balls and drops of solder, each with its highlight and its dark foot."""
        image, mask = layers.image.copy(), np.zeros((SIZE, SIZE), bool)
        middle, spread = rng.uniform(20, SIZE - 20, 2), rng.uniform(8, 60)
        for _ in range(rng.choice([1, 2, 4, 7], p=[0.35, 0.3, 0.2, 0.15])):
            x, y = np.clip(middle + spread * rng.normal(size=2), 4, SIZE - 4)
            radius = log_uniform(rng, 2.2, 15)
            apart = ragged(rng, x, y, radius, 0.1 * radius)
            dome = np.sqrt(np.clip(-apart / radius, 0, 1))
            dx, dy = slopes(soften((radius * dome).astype(np.float32), 0.8))
            facing = -(dx * self.light.towards[0] + dy * self.light.towards[1])
            tone = 0.50 + 0.55 * np.clip(facing, -0.8, 1) + 0.5 * smoothstep(0.5, 0.9, facing)
            metal = expose((np.array([0.95, 0.96, 1.0]) * tone[..., None]).astype(np.float32), self.light)
            alpha = smoothstep(0.7, -0.7, apart)[..., None]
            image, mask = image * (1 - alpha) + metal * alpha, mask | (apart < 0.4)
        return image.astype(np.float32), mask

    def _flake(self, layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Lacquer flaked off in a jagged piece: laminate and copper lie bare, with a pale rim."""
        side = log_uniform(rng, 7, 44)
        y, x = pick(self.pads < 0.1, rng)
        count = rng.integers(5, 11)
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * (side * rng.uniform(0.35, 1.0, (count, 1)))
        corners = corners * np.array([1, rng.uniform(0.35, 1)]) + (x, y)
        canvas = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillPoly(canvas, [np.rint(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        alpha = canvas.astype(np.float32) / 255
        rim = np.clip(alpha - cv2.erode(alpha, np.ones((3, 3), np.uint8)), 0, 1)[..., None]
        grain = 1 + 0.06 * smooth_noise(rng, 110, 110)
        copper = self.copper[..., None]
        bare = (
            (np.array(LAMINATE) * (1 - copper) + np.array(COPPER) * copper) * grain[..., None] * rng.uniform(0.75, 1.1)
        )
        under = expose(np.minimum(bare * (1 - 0.5 * rim) + 0.45 * rim, 1).astype(np.float32), self.light)
        where = alpha[..., None] * (1 - np.maximum(self.pads, self.drills))[..., None]
        return (layers.image * (1 - where) + under * where).astype(np.float32), where[..., 0] > 0.3

    def _fingerprint(self, layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """An oval of greasy ridges, paler or darker than the board."""
        x, y = rng.uniform(20, SIZE - 20, 2)
        size, axis = log_uniform(rng, 14, 36), unit(rng.uniform(0, np.pi))
        u = (Columns - x) * axis[0] + (Rows - y) * axis[1]
        v = (Rows - y) * axis[0] - (Columns - x) * axis[1]
        inside = smoothstep(1.05, 0.8, np.hypot(u / size, v / (0.7 * size)) + 0.06 * smooth_noise(rng, 30, 30))
        whorl = np.hypot(u, v + rng.uniform(-0.3, 0.3) * size) + 2.5 * smooth_noise(rng, 9, 9)
        ridges = 0.6 + 0.4 * np.cos(whorl * 2 * np.pi / rng.uniform(3.6, 5.5))
        dark = layers.image.mean() > 150 or (layers.image.mean() > 60 and rng.random() < 0.5)
        film = inside * ridges * rng.uniform(0.22, 0.5)
        target = np.array([18.0, 20, 22] if dark else [215.0, 215, 205])
        image = layers.image + film[..., None] * (target - layers.image)
        apart = np.abs(image - layers.image).max(2)
        return image.astype(np.float32), (inside > 0.5) & (soften(apart.astype(np.float32), 2) > 8)


def pick(where: np.ndarray, rng: Rng) -> tuple[int, int]:
    """Row and column of a random true pixel, or of any where there is none."""
    places = np.flatnonzero(where) if where.any() else np.arange(where.size)
    row, column = divmod(int(rng.choice(places)), SIZE)
    return row, column


def ragged(rng: Rng, x: float, y: float, radius: float, depth: float) -> np.ndarray:
    """(H, W) px from the torn outline of an ellipse, negative inside; ``depth`` is how far it frays."""
    axis, long = unit(rng.uniform(0, np.pi)), rng.uniform(1, 1.6)
    u = (Columns - x) * axis[0] + (Rows - y) * axis[1]
    v = (Rows - y) * axis[0] - (Columns - x) * axis[1]
    return np.hypot(u / long, v * long) - radius + depth * smooth_noise(rng, 50, 50)


def draw_board(rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A flat board in rows: copper, pads, drills and print, each (ROOM, ROOM) uint8."""
    copper, pads, drills, marks = (np.zeros((ROOM, ROOM), np.uint8) for _ in range(4))
    pitch, width = rng.uniform(8, 14), int(rng.integers(3, 6))
    y = rng.uniform(0, 12)
    while y < ROOM:
        count = int(rng.integers(2, 7))
        y = draw_traces(rng, copper, y, pitch, width, count) + rng.uniform(6, 14)
        y = draw_footprints(rng, copper, pads, drills, marks, y, pitch, width) + rng.uniform(6, 14)
    return copper, pads, drills, marks


def draw_traces(rng: Rng, copper: np.ndarray, y: float, pitch: float, width: int, count: int) -> float:
    """Parallel traces across the board with a common step at 45 degrees; the row below them."""
    step = rng.choice([-1, 1]) * rng.uniform(0, 3) * pitch
    x, top = rng.uniform(0.1, 0.8) * ROOM, y + max(0.0, -step)
    for number in range(count):
        level, turn = top + number * pitch, x - np.sign(step) * 0.41 * number * pitch
        path = [(-9, level), (turn, level), (turn + abs(step), level + step), (ROOM + 9, level + step)]
        cv2.polylines(copper, [np.rint(np.array(path) * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
    return top + (count - 1) * pitch + max(0.0, step)


def draw_footprints(
    rng: Rng,
    copper: np.ndarray,
    pads: np.ndarray,
    drills: np.ndarray,
    marks: np.ndarray,
    y: float,
    pitch: float,
    width: int,
) -> float:
    """A row of places for components: pads, drilled rings, their outlines and names; the row below it."""
    height, x = rng.uniform(30, 58), rng.uniform(0, 20)
    while x < ROOM:
        kind = rng.choice(["chip", "pair", "drilled"])
        number = int(rng.integers(2, 7))
        long = number * pitch if kind != "pair" else 2.6 * pitch
        if kind == "drilled":
            for index in range(number):
                centre = round(x + (index + 0.5) * pitch), round(y + height / 2)
                cv2.circle(pads, centre, round(0.42 * pitch), 255, -1, cv2.LINE_AA)
                cv2.circle(drills, centre, round(0.2 * pitch), 255, -1, cv2.LINE_AA)
        elif kind == "chip":
            for index in range(number):
                left = round(x + (index + 0.22) * pitch)
                for edge in (round(y), round(y + height - 11)):
                    cv2.rectangle(pads, (left, edge), (left + round(0.56 * pitch), edge + 11), 255, -1)
            cv2.rectangle(marks, (round(x), round(y + 14)), (round(x + long), round(y + height - 14)), 255, 1)
        else:
            for start in (x, x + 1.7 * pitch):
                low, high = (round(start), round(y + 6)), (round(start + 0.9 * pitch), round(y + height - 6))
                cv2.rectangle(pads, low, high, 255, -1)
            middle = round(x + 1.3 * pitch), round(y + height / 2)
            cv2.line(copper, middle, (middle[0], round(y - 5)), 255, width, cv2.LINE_AA)
        name = f"{rng.choice(list('RCDQUJ'))}{rng.integers(1, 99)}"
        place = round(x + long + 3), round(y + height / 2 + 4)
        cv2.putText(marks, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, 255, 1, cv2.LINE_AA)
        x += long + 30 + rng.uniform(0, 25)
    return y + height
