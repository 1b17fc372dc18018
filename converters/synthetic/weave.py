"""The weave, twill cloth: how it is drawn, and its own two defects."""

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
    expose,
    log_uniform,
    make_light,
    slopes,
    smooth_noise,
    smoothstep,
    unit,
)
from converters.synthetic.product import SampleProduct

YARNS = 64  # rows of the tables that yarns look their nature up in


@dataclass(frozen=True)
class Weave(SampleProduct):
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

    @classmethod
    def random(cls, rng: Rng) -> Self:
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
        return cls(
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

    def draw(self) -> Layers:
        """The cloth over its backing."""
        (warp, warp_tone), (weft, weft_tone) = self._yarns(0), self._yarns(1)
        top = np.maximum(warp, weft)
        gap = top < -5
        tone = np.where(warp > weft, warp_tone, weft_tone)
        depth = np.clip(0.5 + 0.36 * np.maximum(top, -1.2), 0, 1.1)
        dx, dy = slopes(np.clip(top, -0.8, 2) * 3)
        facing = -(dx * self.light.towards[0] + dy * self.light.towards[1])
        shade = 1 + self.relief * (depth - 0.95 + 0.42 * np.clip(facing, -0.8, 0.8))
        behind = np.full((SIZE, SIZE), self.backing, np.float32)
        slack = np.where(self.gone.any(axis=0), self.slack, 1) * self.seam
        scene = np.where(gap, behind, tone * shade * slack)[..., None].astype(np.float32)
        hole = expose(behind[..., None], self.light)
        cover = np.ones((SIZE, SIZE), np.float32)
        return Layers(expose(scene, self.light), hole, cover, self.light.noise, fray=0.7)

    def missing_part(self, rng: Rng) -> tuple[Self, np.ndarray]:
        """One yarn, sometimes two, absent over a length or right across; with the band as (H, W) bool.

        The yarns that crossed it hang slack: they lie deeper and thinner over the whole band.
        """
        which = int(rng.integers(2))
        over, run = (self.across, self.along) if which == 0 else (self.along, self.across)
        row, column = rng.integers(16, SIZE - 16, 2)
        low = np.floor(over[row, column])
        count = rng.choice([1, 2], p=[0.75, 0.25])
        half = rng.uniform(1.6, 9) if rng.random() < 0.8 else 99
        ends = half - 2.0 / count * (over - low - count / 2) ** 2
        band = (over >= low) & (over < low + count) & (np.abs(run - run[row, column]) < ends)
        gone = self.gone.copy()
        gone[which] = band
        return replace(self, gone=gone, slack=rng.uniform(0.78, 0.92)), band

    def misplaced(self, rng: Rng) -> tuple[Self, np.ndarray]:
        """A patch cut out and put back turned and shifted; with the patch as (H, W) bool."""
        x, y = rng.uniform(8, SIZE - 8, 2)
        axis = unit(rng.uniform(0, np.pi))
        long, wide = log_uniform(rng, 16, 48), rng.uniform(0.65, 1.0)
        u = np.abs((Columns - x) * axis[0] + (Rows - y) * axis[1]) / long
        v = np.abs((Rows - y) * axis[0] - (Columns - x) * axis[1]) / (long * wide)
        reach = (u**5 + v**5) ** 0.2
        patch = reach < 1
        turn = rng.choice([-1, 1]) * rng.uniform(0.45, 1.2)
        middle = self.across[patch].mean(), self.along[patch].mean()
        shift = rng.uniform(0.5, 3.5, 2)
        s, t = self.across - middle[0], self.along - middle[1]
        across = np.cos(turn) * s + np.sin(turn) * t + middle[0] + shift[0]
        along = np.cos(turn) * t - np.sin(turn) * s + middle[1] + shift[1]
        seam = 1 - rng.uniform(0.2, 0.5) * smoothstep(1 - 3 / long, 1, reach) * patch
        moved = replace(
            self,
            across=np.where(patch, across, self.across).astype(np.float32),
            along=np.where(patch, along, self.along).astype(np.float32),
            seam=seam.astype(np.float32),
        )
        return moved, patch

    def _yarns(self, which: int) -> tuple[np.ndarray, np.ndarray]:
        """Height (H, W), -9 where no yarn lies, and reflectance (H, W) of the warps (0) or wefts (1)."""
        over, run = (self.across, self.along) if which == 0 else (self.along, self.across)
        index = np.floor(over).astype(np.int32)
        inside = over - index - 0.5
        half = self.widths[which][index % YARNS] * np.where(self.gone[1 - which], 0.5 + 0.4 * self.slack, 1)
        here = (np.abs(inside) < half) & ~self.gone[which]
        crown = np.cos((index + run - (1 if which == 0 else 3)) * np.float32(np.pi / 2))
        round_ = np.sqrt(np.clip(1 - (inside / half) ** 2, 0, 1))
        height = np.where(here, 0.55 * crown + 0.9 * round_, -9)
        twist = 1 + 0.07 * np.cos(2 * np.pi * (1.7 * run + (1.1 if which else -1.1) * inside))
        tone = self.tones[which][index % YARNS] * twist * self.fibre[which]
        return height.astype(np.float32), tone.astype(np.float32)
