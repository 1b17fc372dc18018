"""Contact sheets: one row an image, whole and zoomed, with its mask, boxes and polygons.

Points and boxes are (x, y) in pixels of the source image with pixel edges at whole numbers, until ``View`` turns
them into pixels of a panel. Colours are (R, G, B).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from converters.masks.instances import Instance, find_instances
from converters.masks.polygons import Ring, corner_rings
from converters.masks.reading import mask_of
from converters.sources.image_files import decoded
from converters.sources.samples import Sample

Rgb = NDArray[np.uint8]  # H x W x 3
Region = tuple[int, int, int, int]  # x0, y0, x1, y1
Colour = tuple[int, int, int]
# Okabe and Ito's palette for all kinds of colour vision: https://jfly.uni-koeln.de/color/
MASK: Colour = (230, 120, 0)
BOX: Colour = (86, 180, 233)
POLYGON: Colour = (240, 228, 66)
FRAME: Colour = (255, 255, 255)
HALO: Colour = (0, 0, 0)
PAPER: Colour = (255, 255, 255)
EMPTY: Colour = (228, 230, 233)
INK: Colour = (24, 28, 34)
FAINT: Colour = (98, 106, 116)
PANEL = 300  # px, each side
INSET = 3  # px around what a panel shows, so that outlines on its border are whole
GAP = 13
EDGE = 24
COLUMNS = 5
WIDTH = 2 * EDGE + COLUMNS * PANEL + (COLUMNS - 1) * GAP
HEAD = 100
LEGEND = 56
CAPTION = 34
ROW = CAPTION + PANEL + 16
MASK_OPACITY = 0.75
PIXELS_SHOW_FROM = 4.0  # screen pixels per image pixel from which pixels are shown as squares
LEAST_REGION = 24  # px
SYNTHETIC_HEADINGS = ("parent: defect", "parent: good image", "synthetic image", "synthetic image, zoom", "zoom + mask")
HEADINGS = ("image", "zoom", "zoom + mask", "zoom + boxes", "zoom + polygons")


@dataclass(frozen=True)
class View:
    """A region of an image, shown as large as it fits into the middle of a panel."""

    region: Region

    @classmethod
    def whole(cls, sample: Sample) -> Self:
        return cls((0, 0, sample.width, sample.height))

    @classmethod
    def zoomed(cls, sample: Sample, instances: Sequence[Instance]) -> Self:
        return cls(zoom_region(instances, sample.width, sample.height))

    @property
    def scale(self) -> float:
        """Screen pixels per image pixel."""
        x0, y0, x1, y1 = self.region
        return (PANEL - 2 * INSET) / max(x1 - x0, y1 - y0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on screen."""
        x0, y0, x1, y1 = self.region
        return max(1, round((x1 - x0) * self.scale)), max(1, round((y1 - y0) * self.scale))

    @property
    def corner(self) -> tuple[int, int]:
        """The region's upper left corner in the panel."""
        width, height = self.size
        return (PANEL - width) // 2, (PANEL - height) // 2

    def show(self, image: Rgb) -> Rgb:
        """The region of an H x W x 3 image as a panel."""
        x0, y0, x1, y1 = self.region
        panel = np.full((PANEL, PANEL, 3), EMPTY, np.uint8)
        self._inside(panel)[:] = self._resized(image[y0:y1, x0:x1])
        return panel

    def paint(self, panel: Rgb, mask: NDArray[np.uint8], colour: Colour, opacity: float) -> None:
        """Tint the panel where an H x W mask of 0 and 1 is set."""
        x0, y0, x1, y1 = self.region
        crop = mask[y0:y1, x0:x1].astype(np.float32)
        how = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_NEAREST_EXACT
        alpha = opacity * np.asarray(cv2.resize(crop, self.size, interpolation=how))[..., None]
        inside = self._inside(panel)
        inside[:] = (inside * (1 - alpha) + np.array(colour) * alpha).round().astype(np.uint8)

    def place(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Image points (... x 2) in panel coordinates, pixel edges at whole numbers."""
        return (points - np.array(self.region[:2])) * self.scale + self.corner

    def _inside(self, panel: Rgb) -> Rgb:
        (x, y), (width, height) = self.corner, self.size
        return panel[y : y + height, x : x + width]

    def _resized(self, crop: Rgb) -> Rgb:
        if self.scale < 1:
            how = cv2.INTER_AREA
        else:
            how = cv2.INTER_NEAREST_EXACT if self.scale >= PIXELS_SHOW_FROM else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(crop, self.size, interpolation=how), np.uint8)


Row = tuple[list[str], list[Rgb]]  # the caption, whose first text is the row's name, and at most COLUMNS panels


def defect_sheet(title: str, subtitle: str, defects: Sequence[tuple[Sample, Sequence[Instance]]]) -> Image.Image:
    """A sheet with one row for each defective image."""
    return _sheet(title, subtitle, [_defect_row(*defect) for defect in defects], HEADINGS, legend=True)


def good_sheet(title: str, subtitle: str, rows: Sequence[tuple[str, Sequence[Sample]]]) -> Image.Image:
    """A sheet with one row for each caption and its (at most COLUMNS) good images."""
    shown = [
        ([caption, ", ".join(s.image.name for s in samples)], [View.whole(s).show(read_rgb(s)) for s in samples])
        for caption, samples in rows
    ]
    return _sheet(title, subtitle, shown)


@dataclass(frozen=True)
class Child:
    """A synthetic image beside its parents: the good image, and the one that its first defect (or texture) is from."""

    made: Sample
    background: Sample
    source: Sample


def synthetic_sheet(title: str, subtitle: str, children: Sequence[Child]) -> Image.Image:
    """A sheet with one row for each synthetic image."""
    return _sheet(title, subtitle, [_synthetic_row(child) for child in children], SYNTHETIC_HEADINGS)


def _synthetic_row(child: Child) -> Row:
    """The third and the fifth panel show where the mask is."""
    made, background, source = child.made, child.background, child.source
    instances, parts = (find_instances(mask_of(s).mask) if s.mask else [] for s in (made, source))
    whole, zoom = View.whole(made), View.zoomed(made, instances)
    overview, plain = (view.show(read_rgb(made)) for view in (whole, zoom))
    masked = plain.copy()
    _stroke(overview, whole, [_rectangle(zoom.region)], FRAME)
    zoom.paint(masked, _joint_mask(made, instances), MASK, MASK_OPACITY)
    parents = [View.zoomed(source, parts).show(read_rgb(source)), View.whole(background).show(read_rgb(background))]
    caption = [made.image.name, made.defect, f"from {source.key} and {background.key}"]
    return caption, [*parents, overview, plain, masked]


def _defect_row(sample: Sample, instances: Sequence[Instance]) -> Row:
    image = read_rgb(sample)
    whole, zoom = View.whole(sample), View.zoomed(sample, instances)
    overview, plain = whole.show(image), zoom.show(image)
    masked, boxed, outlined = plain.copy(), plain.copy(), plain.copy()
    boxes = [_rectangle(instance.xyxy) for instance in instances]
    rings = [ring for instance in instances for ring in corner_rings(instance)]
    if zoom != whole:
        _stroke(overview, whole, [_rectangle(zoom.region)], FRAME)
    _stroke(overview, whole, boxes, BOX)
    zoom.paint(masked, _joint_mask(sample, instances), MASK, MASK_OPACITY)
    _stroke(boxed, zoom, boxes, BOX)
    _stroke(outlined, zoom, rings, POLYGON, rim=2 if zoom.scale >= PIXELS_SHOW_FROM else 1)
    x0, y0, x1, y1 = zoom.region
    percent = 100 * sum(i.area for i in instances) / (sample.width * sample.height)
    caption = [
        sample.key,
        f"{sample.width} x {sample.height} px",
        f"{len(instances)} instance{'' if len(instances) == 1 else 's'}",
        f"{percent:.3g} % of the image",
        f"zoom: {x1 - x0} x {y1 - y0} px at {100 * zoom.scale:.0f} %",
    ]
    return caption, [overview, plain, masked, boxed, outlined]


def read_rgb(sample: Sample) -> Rgb:
    """The sample's image, H x W x 3."""
    return np.asarray(decoded(sample.image).convert("RGB"))


def zoom_region(instances: Sequence[Instance], width: int, height: int) -> Region:
    """A square around all instances with a margin, moved and cut to lie inside the image; without any, the image."""
    if not instances:
        return 0, 0, width, height
    boxes = np.array([instance.xyxy for instance in instances])
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    longest = max(x1 - x0, y1 - y0)
    side = max(LEAST_REGION, longest + 2 * max(4, longest // 5))
    left, right = _centred(x0 + x1, side, width)
    top, bottom = _centred(y0 + y1, side, height)
    return left, top, right, bottom


def _centred(twice_middle: int, side: int, limit: int) -> tuple[int, int]:
    """Start and end of an interval of this length around a middle, inside 0 .. limit."""
    start = max(0, min((twice_middle - side) // 2, limit - side))
    return start, min(start + side, limit)


def outline_edges(ring: Ring) -> NDArray[Any]:
    """Edges of a closed ring, E x 2 points x 2, without the bridges that lead to holes.

    A bridge is passed in both directions, a border only with the defect on its left.
    """
    starts, ends = (map(tuple, points.tolist()) for points in (ring, np.roll(ring, -1, axis=0)))
    edges = Counter(zip(starts, ends, strict=True))
    return np.array([edge for edge, count in edges.items() if count > edges[edge[::-1]]])


def _rectangle(xyxy: Region) -> Ring:
    x0, y0, x1, y1 = xyxy
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _joint_mask(sample: Sample, instances: Iterable[Instance]) -> NDArray[np.uint8]:
    mask = np.zeros((sample.height, sample.width), np.uint8)
    for instance in instances:
        x0, y0, x1, y1 = instance.xyxy
        mask[y0:y1, x0:x1] |= instance.mask
    return mask


def _stroke(panel: Rgb, view: View, rings: Iterable[Ring], colour: Colour, rim: int = 2) -> None:
    """Draw closed rings with a dark rim, so that they show on bright images as well as on dark ones."""
    shift = 4  # bits of the fraction that cv2 draws with
    edges = [edge for ring in rings for edge in view.place(outline_edges(ring)) - 0.5]  # cv2 counts from pixel centres
    fixed = [(edge * (1 << shift)).round().astype(np.int32) for edge in edges]
    for width, shade in ((2 + rim, HALO), (2, colour)):
        cv2.polylines(panel, fixed, False, shade, width, cv2.LINE_AA, shift)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _left(column: int) -> int:
    return EDGE + column * (PANEL + GAP)


def _sheet(
    title: str, subtitle: str, rows: Sequence[Row], headings: Sequence[str] = (), legend: bool = False
) -> Image.Image:
    """The rows one below the other; headings stand above the first, the legend of the colours above them."""
    top = HEAD + (LEGEND if legend else CAPTION if headings else 0)
    sheet = Image.new("RGB", (WIDTH, top + len(rows) * ROW + EDGE), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((EDGE, 20), title, INK, _font(34))
    draw.text((EDGE, 66), subtitle, FAINT, _font(17))
    if legend:
        _legend(draw, HEAD)
    for column, heading in enumerate(headings):
        draw.text((_left(column), top - 26), heading, INK, _font(17))
    for index, ((name, *details), panels) in enumerate(rows):
        y = top + index * ROW
        draw.text((EDGE, y + 7), name, INK, _font(18))
        x = EDGE + _font(18).getlength(name) + 18
        draw.text((x, y + 8), "   ·   ".join(details), FAINT, _font(17))
        for column, panel in enumerate(panels):
            sheet.paste(Image.fromarray(panel), (_left(column), y + CAPTION))
    return sheet


def _legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    """The legend of the colours, on one line."""
    x = EDGE
    entries = (
        (FRAME, "zoomed region"),
        (BOX, "box on pixel edges"),
        (MASK, "defect pixels of the mask"),
        (POLYGON, "polygon on pixel corners, holes cut out"),
    )
    for colour, meaning in entries:
        if colour is MASK:
            draw.rectangle((x, y, x + 22, y + 15), colour)
        else:
            draw.rectangle((x, y, x + 22, y + 15), PAPER, HALO, 4)
            draw.rectangle((x + 1, y + 1, x + 21, y + 14), None, colour, 2)
        draw.text((x + 31, y - 2), meaning, INK, _font(16))
        x += 31 + round(_font(16).getlength(meaning)) + 32
