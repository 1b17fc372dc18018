"""Synthetic defects painted on good images, and shapes on any: kinds, outlines and where they go."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
KINDS = ("fill", "fill line", "tint", "tint line", "paste", "shift", "turn", "erase")
CELLS = 1 + len(KINDS)  # classes of a cell: untouched, or how it was made
MOST = 10  # synthetic defects in an image
VISIBLE = 10  # grey levels: a smaller change is no defect
SHAPES, SMALLEST = 8, 8  # that paint_shapes tries; px of the side of one


def paint_defects(image: Pixels, other: Pixels, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Paint up to MOST defects into a good image.

    ``image`` and ``other`` (another good image to take patches from) are S x S x 3, RGB. Returns the new image and
    S x S of 0 (untouched) or the class of the defect there, 1..CELLS-1. What displaces or erases is put where the
    image has structure, since it would not be seen elsewhere.
    """
    painted, classes = image.copy(), np.zeros(image.shape[:2], np.uint8)
    structure = structure_of(image)
    for _ in range(generator.integers(0, MOST + 1)):
        if made := paint_defect(painted, other, structure, generator):
            kind, window, seen = made
            classes[window][seen] = 1 + kind
    return painted, classes


def paint_defect(
    image: Pixels, other: Pixels, structure: NDArray[np.float64], generator: np.random.Generator
) -> tuple[int, tuple[slice, slice], NDArray[np.bool_]] | None:
    """Paint one defect into an image, as ``paint_defects`` does; None where a larger one was drawn than fits.

    Returns its number in KINDS, the square window of the image that it lies in, and which pixels there it changed
    visibly. ``structure`` is ``structure_of`` the good image.
    """
    kind = int(generator.integers(len(KINDS)))
    structural = kind >= STRUCTURAL
    mask = draw_line(generator) if "line" in KINDS[kind] else draw_blob(generator, structural)
    side, limit = mask.shape[0], image.shape[0] - mask.shape[0]
    if limit < 1:
        return None
    centre = np.searchsorted(structure, generator.random()) if structural else generator.integers(image[..., 0].size)
    y, x = (int(np.clip(v - side // 2, 0, limit)) for v in divmod(int(centre), image.shape[1]))
    window = (slice(y, y + side), slice(x, x + side))
    before = image[window]
    content = CONTENT[kind](image, other, mask, (y, x), generator)
    after = _blend(before, content, mask, generator)
    seen = (mask > 0) & (cv2.absdiff(after, before).max(2) >= VISIBLE)
    image[window] = after
    return kind, window, seen


def structure_of(image: Pixels) -> NDArray[np.float64]:
    """Cumulated share, over all pixels row by row, of the image's edges (blurred)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    edges = cv2.blur(np.abs(cv2.Laplacian(grey, cv2.CV_32F, ksize=3)), (9, 9))
    cumulated = np.cumsum(np.minimum(edges, np.quantile(edges[::4, ::4], 0.9)) + 1e-3, dtype=np.float64)
    return cumulated / cumulated[-1]


def paint_shapes(pixels: Pixels, ids: NDArray[np.int64], generator: np.random.Generator, hard: float = 1.0) -> None:
    """Paint shapes into an image, S x S x 3, beside the instances it has, and number them on in ``ids``, S x S.

    ``hard``, 0..1, is how small and thin they may be.
    """
    size = len(ids)
    for _ in range(SHAPES):
        side = int(np.exp(generator.uniform(np.log(SMALLEST + (1 - hard) * size / 4), np.log(0.8 * size))))
        y, x = (int(value) for value in generator.integers(0, size - side + 1, 2))
        window = np.s_[y : y + side, x : x + side]
        mask = draw_shape(side, generator, hard) * (ids[window] == 0)
        content = (_fill if generator.random() < 0.6 else _tint)(pixels, pixels, mask, (y, x), generator)
        after = _blend(pixels[window], content, mask, generator)
        if mask.sum() >= SMALLEST and cv2.absdiff(after, pixels[window]).max(2)[mask > 0].mean() >= VISIBLE:
            pixels[window] = after
            ids[window][mask > 0] = ids.max() + 1


def _blend(before: Pixels, content: Pixels, mask: Pixels, generator: np.random.Generator) -> Pixels:
    """``content`` where the mask is, with a soft edge, and ``before`` elsewhere."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), generator.uniform(0.4, 0.9))[..., None]
    return np.clip(before * (1 - soft) + content * soft, 0, 255).astype(np.uint8)


def draw_shape(side: int, generator: np.random.Generator, hard: float = 1.0) -> Pixels:
    """A filled polygon or, likelier the nearer ``hard`` is to 1, an outline or a bent line; side x side, 0 and 1."""
    if generator.random() < hard / 3:
        points = _bent(1, generator.uniform(0, 2 * np.pi), generator.uniform(-2, 2))
        points = 1 + points * (side - 3) / np.ptp(points, 0).max()
        return _drawn(side, points, int(generator.integers(1, max(2, side // 12) + 1)), closed=False)
    corners, tilt = _polygon(side / 2 - 1, 0.35, 1, generator), generator.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    hollow = generator.random() <= hard / 2
    thickness = int(generator.integers(1, max(2, side // 8) + 1)) if hollow else 0
    return _drawn(side, np.clip(np.round(corners @ turn + side / 2), 0, side - 1), thickness)


def draw_blob(generator: np.random.Generator, large: bool) -> Pixels:
    """A filled polygon of 8 to 60 px, or 16 to 70 where it is to be ``large``, else at times hollow; 0 and 1."""
    radius = np.exp(generator.uniform(np.log(8 if large else 4), np.log(28 if large else 24)))
    side = int(2.6 * radius) + 4
    points = _polygon(radius, 0.5, 1.25, generator) + side / 2
    return _drawn(side, points, 2 if not large and generator.random() < 0.2 else 0)


def draw_line(generator: np.random.Generator) -> Pixels:
    """A bent line of 1 to 3 px, 8 to 80 px long; side x side of 0 and 1."""
    length, bend = generator.uniform(8, 80), generator.uniform(-1.5, 1.5)
    points = _bent(length / 9, generator.uniform(0, 2 * np.pi), bend) + 3
    return _drawn(int(np.ceil(points.max())) + 4, points, int(generator.integers(1, 4)), closed=False)


def _polygon(radius: float, least: float, most: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """5 to 11 corners (x, y) of a flattened polygon around 0, each ``least`` to ``most`` times the radius away."""
    turns = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(5, 12)))
    spokes = radius * generator.uniform(least, most, len(turns))
    return spokes[:, None] * np.stack([np.cos(turns), generator.uniform(0.5, 1) * np.sin(turns)], 1)


def _bent(step: float, start: float, bend: float) -> NDArray[np.float64]:
    """9 points (x, y), from 0 on, of a line that begins in direction ``start`` and turns by ``bend``, radians."""
    angles = start + np.linspace(0, bend, 9)
    points = np.cumsum(step * np.stack([np.cos(angles), np.sin(angles)], 1), 0)
    return points - points.min(0)


def _drawn(side: int, points: NDArray[np.float64], thickness: int = 0, closed: bool = True) -> Pixels:
    """A filled polygon or, with a thickness, its outline or an open line; side x side of 0 and 1."""
    mask, corners = np.zeros((side, side), np.uint8), [np.round(points).astype(np.int32)]
    if thickness:
        cv2.polylines(mask, corners, closed, 1, thickness)
    else:
        cv2.fillPoly(mask, corners, 1)
    return mask


def _cut(image: Pixels, y: int, x: int, side: int) -> Pixels:
    y, x = (int(np.clip(v, 0, limit - side)) for v, limit in zip((y, x), image.shape, strict=False))
    return image[y : y + side, x : x + side]


def _fill(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    colour = np.clip(generator.uniform(0, 255) + generator.normal(0, 20, 3), 0, 255)
    strength = generator.uniform(0.5, 1)
    return (_cut(image, *at, len(mask)) * (1 - strength) + strength * colour).astype(np.uint8)


def _tint(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    gain = np.exp(generator.normal(0, 0.3) + generator.normal(0, 0.12, 3))
    return np.clip(_cut(image, *at, len(mask)) * gain, 0, 255).astype(np.uint8)


def _paste(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    source = image if generator.random() < 0.7 else other
    y, x = generator.integers(0, np.array(image.shape[:2]) - len(mask) + 1)
    return np.rot90(_cut(source, y, x, len(mask)), int(generator.integers(4)))


def _shift(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    angle, distance = generator.uniform(0, 2 * np.pi), generator.uniform(3, 14)
    y, x = at[0] + distance * np.sin(angle), at[1] + distance * np.cos(angle)
    return _cut(image, round(y), round(x), len(mask))


def _turn(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    side = len(mask)
    angle = generator.choice([-1, 1]) * generator.uniform(20, 160)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, 1)
    turned = cv2.warpAffine(_cut(image, *at, side), turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.uint8)


def _erase(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    return np.asarray(cv2.inpaint(_cut(image, *at, len(mask)), mask, 3, cv2.INPAINT_TELEA), np.uint8)


CONTENT = (_fill, _fill, _tint, _tint, _paste, _shift, _turn, _erase)  # as KINDS
STRUCTURAL = KINDS.index("paste")  # from here on
