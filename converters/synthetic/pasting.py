"""Cut a defect out of one image and set it into another, with the mask that this makes: pure functions.

After Dwibedi et al. (ICCV 2017), Ghiasi et al. (CVPR 2021) and CutPaste (Li et al., CVPR 2021). Here the mask is
exact by construction: it holds pixels that were replaced as a whole and differ visibly from the good parent, or lie
within SPREAD px of one that does; more than BORDER px away from it nothing is changed.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.masks.instances import Instance
from converters.synthetic.foreground import Frame, Mask, Pixels
from converters.synthetic.request import ANYWHERE, OBJECT, PRIOR

Values = NDArray[Any]  # h x w x C, uint8 or float32, 0..255
Window = tuple[slice, slice]  # rows and columns of an image
VISIBLE = 10  # grey levels by which the synthetic image differs from its parent
SPREAD = 2  # px: a pixel this near to a visible difference belongs to the defect, or masks would fall to pieces
BORDER = 3  # px around the mask in which the defect fades into its parent
CONTEXT = 8  # px around a defect that are looked at to match light and seam
LEAST_SEEN = 0.5  # share of a pasted defect that must be visible
LEAST_INSIDE = 0.9  # share of a pasted defect that must lie in the image
SHARE = 0.15  # by which the part of a defect that lies on the product may differ from what it was
GAIN = (0.5, 2.0)  # bounds of what re-lighting does
DARK = 8.0  # grey levels added to both sides of a gain, since ratios of dark pixels are noise


@dataclass(frozen=True)
class Cut:
    """A defect with its surroundings: pixels (h x w x C, 0..255), its mask and the product's (h x w of 0 and 1).

    Pixels are uint8 as cut, float32 once placed: they are rounded only when the image is whole, since each rounding
    adds noise that the real images do not have.
    """

    pixels: Values
    mask: Mask
    product: Mask

    @property
    def share(self) -> float:
        """The share of the defect that lies on the product, 0..1."""
        return float(self.product[self.mask > 0].mean())


@dataclass(frozen=True)
class Placement:
    """A place for a cut: where its middle goes (x, y in px), turned by ``angle`` (rad) and scaled; mirrored before."""

    x: float
    y: float
    angle: float
    scale: float
    mirror: bool


@dataclass(frozen=True)
class Source:
    """The place of a defect on its product: along and across its axis (see ``Frame``), and the product's frame."""

    along: float
    across: float
    frame: Frame


@dataclass(frozen=True)
class Placed:
    """A cut as it lies in the window of its new image; see ``Cut`` for the arrays."""

    window: Window
    cut: Cut


def cut_instance(image: Pixels, product: Mask, instance: Instance) -> Cut:
    """Cut an instance with CONTEXT px around it; beyond the image's edge its pixels are mirrored."""
    x0, y0, x1, y1 = instance.xyxy
    around = max(CONTEXT, (x1 - x0) // 8, (y1 - y0) // 8)
    height, width = product.shape
    before = (max(0, around - y0), max(0, around - x0))
    after = (max(0, y1 + around - height), max(0, x1 + around - width))
    window = (slice(max(0, y0 - around), y1 + around), slice(max(0, x0 - around), x1 + around))
    margins = ((before[0], after[0]), (before[1], after[1]))
    pixels = np.pad(_with_channels(image[window]), (*margins, (0, 0)), mode="symmetric")
    return Cut(pixels, np.pad(instance.mask, around), np.pad(product[window], margins, mode="edge"))


def _with_channels(pixels: NDArray[Any]) -> Values:
    """OpenCV drops the last axis where it is 1."""
    return pixels if pixels.ndim == 3 else pixels[..., None]


def draw_placement(
    source: Source,
    other: Source,
    target: Frame,
    product: Mask,
    place: str,
    kind: str,
    scales: tuple[float, float],
    generator: np.random.Generator,
) -> Placement:
    """Draw where a defect goes.

    ``place`` is "prior": where the type occurs on the product, moved along its axis towards the place of ``other``
    where products lie turned, and turned with it; "object": any point of the ``product`` (H x W of 0 and 1); or
    "anywhere". ``kind`` is the product's (see ``foreground.kind_of``), ``scales`` the bounds of the scale, beside
    what follows from the products' sizes.
    """
    scale = float(np.clip(target.size / source.frame.size * generator.uniform(0.9, 1.1), *scales))
    mirror = bool(kind != "aligned" and generator.random() < 0.5)
    sway = generator.normal(0, np.radians(3))
    if place != PRIOR or kind == "texture":
        turn = generator.uniform(-np.pi, np.pi) if kind in ("turned", "round") or place == ANYWHERE else sway
        column, row = random_pixel(product if place == OBJECT else np.ones_like(product), generator)
        return Placement(column + 0.5, row + 0.5, float(turn), scale, mirror)
    along, across = source.along, -source.across if mirror else source.across
    along, across = np.array([along, across]) + generator.normal(0, 0.02, 2)
    turn = (target.angle + source.frame.angle) if mirror else (target.angle - source.frame.angle)
    if kind == "turned":
        along += generator.random() * (other.along - source.along)
    elif kind == "round":
        round_turn = generator.uniform(-np.pi, np.pi)
        turn, target = turn + round_turn, replace(target, angle=target.angle + round_turn)
    x, y = target.to_image(float(along), float(across))
    return Placement(x, y, float(turn + sway), scale, mirror)


def random_pixel(allowed: Mask, generator: np.random.Generator) -> tuple[int, int]:
    """Column and row of a pixel where the mask is 1, each as likely as any other."""
    y, x = divmod(int(generator.choice(np.flatnonzero(allowed))), allowed.shape[1])
    return x, y


def place_cut(cut: Cut, placement: Placement, shape: tuple[int, int]) -> Placed | None:
    """Turn, scale and mirror a cut into an image of ``shape`` (height, width); None if too little lies inside."""
    height, width = cut.mask.shape
    cos, sin = np.cos(placement.angle), np.sin(placement.angle)
    linear = placement.scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([1.0, -1.0 if placement.mirror else 1.0])
    middle = np.array([width / 2, height / 2])
    goal = np.array([placement.x, placement.y])
    corners = (np.array([[0, 0], [width, 0], [0, height], [width, height]]) - middle) @ linear.T + goal
    low = np.clip(np.floor(corners.min(0)), 0, shape[::-1]).astype(int)
    high = np.clip(np.ceil(corners.max(0)), 0, shape[::-1]).astype(int)
    if (high - low).min() < 1:
        return None
    # Pixel centres lie at halves in our coordinates, and at whole numbers in OpenCV's.
    offset = goal - low - linear @ middle + linear @ np.array([0.5, 0.5]) - 0.5
    matrix, size = np.hstack([linear, offset[:, None]]), (int(high[0] - low[0]), int(high[1] - low[1]))
    exact = cut.pixels.astype(np.float32)
    pixels = cv2.warpAffine(exact, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    soft = cv2.warpAffine(cut.mask * np.float32(1), matrix, size)
    product = cv2.warpAffine(cut.product, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    whole = _parts(cut.mask)
    levels = ((soft >= level).view(np.uint8) for level in (0.5, 0.4, 0.3, 0.25))
    mask = next((level for level in levels if _parts(level) <= whole), None)
    if mask is None or mask.sum() < LEAST_INSIDE * cut.mask.sum() * placement.scale**2:
        return None
    window = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
    return Placed(window, Cut(_with_channels(pixels), mask, np.asarray(product, np.uint8)))


def relight(cut: Cut, parent: Pixels, product: Mask) -> Values:
    """The cut's pixels in the light of the parent's window: product and background each get the gain, a channel,
    that makes their medians around the defect equal."""
    around = (dilated(cut.mask, CONTEXT) > 0) & (cut.mask == 0)
    gains: list[NDArray[np.float64] | None] = []
    for value in (0, 1):
        ours, theirs = around & (cut.product == value), around & (product == value)
        enough = min(np.count_nonzero(ours), np.count_nonzero(theirs)) >= CONTEXT
        ratio = (np.median(parent[theirs], 0) + DARK) / (np.median(cut.pixels[ours], 0) + DARK) if enough else None
        gains.append(None if ratio is None else np.clip(ratio, *GAIN))
    one = np.ones(cut.pixels.shape[2])
    background, foreground = (
        gain if gain is not None else other if other is not None else one for gain, other in (gains, reversed(gains))
    )
    soft = cv2.GaussianBlur(cut.product * np.float32(1), (0, 0), 1.0)[..., None]
    gain_map = background * (1 - soft) + foreground * soft
    return np.clip(cut.pixels * gain_map, 0, 255).astype(np.float32)


def seam(cut: Cut, parent: Pixels) -> float:
    """The misfit of a cut: mean difference, in grey levels, between it and the parent around its mask."""
    edge = (dilated(cut.mask, CONTEXT) > 0) & (cut.mask == 0)
    return float(np.abs(cut.pixels - parent.astype(np.float32))[edge].mean()) if edge.any() else 255.0


def blend(parent: Pixels, pixels: Values, mask: Mask, softness: float) -> tuple[Pixels, Mask] | None:
    """Set pixels into a parent (both h x w x C) where the mask is 1; outside it, they fade within BORDER px.

    ``softness`` is the fading's standard deviation in px. Returns the synthetic image and its mask: where the pixels
    were replaced and, at most SPREAD px away (in rows and columns), differ from the parent by VISIBLE or more.
    None if too little of it is visible, or if the mask has more parts than it had.
    """
    weight = np.maximum(mask, cv2.GaussianBlur(mask * np.float32(1), (0, 0), softness))
    differs = (np.abs(np.round(pixels) - parent.astype(np.float32)).max(2) >= VISIBLE).view(np.uint8)
    seen = mask & dilated(mask & differs, SPREAD)
    if seen.sum() < LEAST_SEEN * mask.sum() or _parts(seen) > _parts(mask):
        return None
    weight = (weight * dilated(seen, BORDER))[..., None]
    return np.round(parent * (1 - weight) + pixels * weight).astype(np.uint8), seen


def without_seam(pixels: Values, parent: Pixels, mask: Mask) -> Values:
    """The pixels with the parent's values on the rim of the mask and their own gradients within it.

    Poisson image editing (Pérez et al., SIGGRAPH 2003) by cv2.seamlessClone, on the mask and BORDER px around it.
    What it adds is smooth, so its rounding is taken out by a small blur.
    """
    room = BORDER + 2  # OpenCV wants the mask inside the image
    around = ((room, room), (room, room))
    area = np.pad(dilated(mask, BORDER), around)
    area[:room], area[-room:], area[:, :room], area[:, -room:] = 0, 0, 0, 0
    rounded = np.round(pixels).astype(np.uint8)
    ours, theirs = (np.pad(array, (*around, (0, 0)), mode="edge") for array in (rounded, parent))
    source, goal = (array if array.shape[2] == 3 else np.repeat(array, 3, axis=2) for array in (ours, theirs))
    x, y, width, height = cv2.boundingRect(area)
    cloned = cv2.seamlessClone(source, goal, area * 255, (x + width // 2, y + height // 2), cv2.NORMAL_CLONE)
    inside = (area > 0).astype(np.float32)
    added = (np.asarray(cloned)[..., : ours.shape[2]].astype(np.float32) - ours) * inside[..., None]
    share = np.maximum(cv2.GaussianBlur(inside, (0, 0), 1.0), 1e-3)[..., None]
    smooth = _with_channels(cv2.GaussianBlur(added, (0, 0), 1.0)) / share * inside[..., None]
    return np.clip(pixels + smooth[room:-room, room:-room], 0, 255).astype(np.float32)


def dilated(mask: Mask, distance: int) -> Mask:
    """Pixels at most ``distance`` rows and columns away from the mask."""
    return np.asarray(cv2.dilate(mask, np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)), np.uint8)


def _parts(mask: Mask) -> int:
    return cv2.connectedComponents(mask, connectivity=8)[0] - 1
