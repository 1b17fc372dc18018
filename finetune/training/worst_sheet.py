"""worst.png of a run: the images or instances that it does worst on, four in a row, truth green and answers magenta."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SHOWN = 16  # tiles of a run
COLUMNS = 4
SIDE, LINE = 256, 18  # px, of a tile and of the text below it
TRUTH, FOUND = (0, 220, 0), (255, 0, 255)  # RGB


@dataclass(frozen=True)
class Mark:
    """An outline (V x 2 of x and y, px of the image) and the text beside it."""

    ring: NDArray[Any]
    label: str = ""


@dataclass(frozen=True)
class Tile:
    """A window (x, y, width, height) of an image (H x W x 3, RGB) and what is marked there."""

    pixels: NDArray[np.uint8]
    window: tuple[int, int, int, int]
    truth: Sequence[Mark]
    found: Sequence[Mark]
    caption: str


def box_mark(xywh: Sequence[float], label: str = "") -> Mark:
    x, y, w, h = xywh
    return Mark(np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]), label)


def draw_sheet(path: Path, tiles: Sequence[Tile]) -> None:
    """Write the tiles as one PNG; no file without any."""
    drawn = [_drawn(tile) for tile in tiles]
    if drawn:
        drawn += [np.full_like(drawn[0], 255)] * (-len(drawn) % COLUMNS)
        rows = [np.hstack(drawn[start : start + COLUMNS]) for start in range(0, len(drawn), COLUMNS)]
        cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def _drawn(tile: Tile) -> NDArray[np.uint8]:
    x, y, w, h = tile.window
    scale = SIDE / max(w, h)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shown = cv2.resize(tile.pixels[y : y + h, x : x + w], None, fx=scale, fy=scale, interpolation=how)
    canvas = np.full((SIDE + LINE, SIDE, 3), 255, np.uint8)
    canvas[: shown.shape[0], : shown.shape[1]] = shown[:SIDE, :SIDE]
    for marks, colour in ((tile.truth, TRUTH), (tile.found, FOUND)):
        for mark in marks:
            ring = ((mark.ring - (x, y)) * scale).round().astype(np.int32)
            cv2.polylines(canvas, [ring], True, colour, 1)
            left, top, bottom = (int(value) for value in (*ring.min(axis=0), ring[:, 1].max()))
            _write(canvas, mark.label, (left, bottom + 10 if colour is TRUTH else top - 3), colour)
    canvas[SIDE:] = 255
    _write(canvas, tile.caption[-44:], (2, SIDE + 13), (0, 0, 0))
    return canvas


def _write(canvas: NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, 1, cv2.LINE_AA)
