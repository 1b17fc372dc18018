"""Make one image: parents drawn by its own seed, their pixels read, pasted and written."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from converters.drawing.contact_sheets import spread
from converters.masks.instances import Instance, InstanceRule, find_instances
from converters.masks.reading import mask_of
from converters.sources.image_files import decoded
from converters.sources.samples import GOOD, Sample
from converters.synthetic import pasting, perlin
from converters.synthetic.foreground import Mask, Pixels, find_foreground, frame_of, kind_of
from converters.synthetic.pasting import Cut, Placement, Source, Window
from converters.synthetic.request import ANYWHERE, OBJECT, PASTE, PRIOR, Order, Request

LOOKED_AT = 60  # good images from which the kind of product is told
TRIES = 200  # backgrounds and defects that are drawn before a type is given up
NEXT = {  # what to do where no place is found
    PRIOR: "try --place object",
    OBJECT: "try --place anywhere",
    ANYWHERE: "its defects are too large, or too faint, for the good images of train",
}
FITS = 24  # placements of which the one with the least seam is taken
SEAMLESS = 0.75  # share of pastes without a seam; the others teach that a seam is no defect (Dwibedi et al.)
SOFTNESS = (0.5, 1.0)  # px, the standard deviation of the fading border
COMPRESSION = 3  # of PNG: half the time of 6, 3 % more bytes
Parts = list[dict[str, Any]]  # what augment.json says of each defect in an image


@dataclass(frozen=True)
class Parent:
    """A defect to paste: the number of its instance in its image, and where it lies on its product."""

    sample: Sample
    number: int
    instance: Instance
    source: Source


@dataclass(frozen=True)
class Stock:
    """The material of synthetic images: good images, defects by type, and what the data say about both."""

    goods: tuple[Sample, ...]
    parents: dict[str, list[Parent]]
    numbers: dict[str, list[int]]  # instances in each image of a type
    kind: str  # of product; see `foreground.kind_of`
    channels: int
    rule: InstanceRule

    @property
    def areas(self) -> tuple[int, int]:
        """The smallest and the largest defect, px."""
        found = [parent.instance.area for several in self.parents.values() for parent in several]
        return min(found), max(found)


@dataclass(frozen=True)
class Made:
    """One synthetic image: its file's name, its class, and what augment.json says of it."""

    name: str
    defect: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Canvas:
    """A copy of a good image, which changes with its mask (both in place), and the foreground of its product."""

    image: Pixels
    mask: Mask
    product: Mask


def take_stock(train: Sequence[Sample], rule: InstanceRule, dataset: Path) -> Stock:
    """Look at the good images and the defects of train.

    Raises DatasetError if there are none of either, or none of a type with a product around it.
    """
    goods = tuple(sample for sample in train if sample.defect == GOOD)
    defects = [sample for sample in train if sample.defect != GOOD]
    if not goods or not defects:
        raise DatasetError(f"{dataset}: train has no {'defects' if goods else 'good images'} to make images of")
    channels = max(sample.channels for sample in train)
    kind = kind_of([find_foreground(read_pixels(sample, channels)) for sample in spread(goods, LOOKED_AT)])
    parents: dict[str, list[Parent]] = defaultdict(list)
    numbers: dict[str, list[int]] = defaultdict(list)
    with progress(defects, len(defects), "looking at defects") as bar:
        for sample in bar:
            read = mask_of(sample)
            instances = find_instances(read.mask, rule, read.xywh)
            product = product_of(read_pixels(sample, channels), kind)
            if instances and product is not None:
                numbers[sample.defect].append(len(instances))
                frame = frame_of(product, kind)
                for number, instance in enumerate(instances):
                    x0, y0, x1, y1 = instance.xyxy
                    source = Source(*frame.to_product((x0 + x1) / 2, (y0 + y1) / 2), frame)
                    parents[sample.defect].append(Parent(sample, number, instance, source))
    missing = sorted({sample.defect for sample in defects} - parents.keys())
    if missing:
        raise DatasetError(f"{dataset}: no product is found around any defect of {missing[0]} in train")
    return Stock(goods, dict(parents), dict(numbers), kind, channels, rule)


def read_pixels(sample: Sample, channels: int) -> Pixels:
    """H x W x C, RGB where C is 3."""
    pixels = np.asarray(decoded(sample.image).convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def product_of(pixels: Pixels, kind: str) -> Mask | None:
    """H x W of 0 and 1, all 1 for a texture; None where the product of another kind is not found."""
    return np.ones(pixels.shape[:2], np.uint8) if kind == "texture" else find_foreground(pixels)


@lru_cache(maxsize=8)
def _read(sample: Sample, channels: int, kind: str) -> tuple[Pixels, Mask | None]:
    pixels = read_pixels(sample, channels)
    return pixels, product_of(pixels, kind)


@dataclass(frozen=True)
class Maker:
    """Everything a worker needs to make an image; calling it does so."""

    stock: Stock
    folder: Path
    request: Request

    def __call__(self, order: Order) -> Made:
        generator = np.random.default_rng([self.request.seed % 2**64, order.index])
        for _ in range(TRIES):
            background = self.stock.goods[generator.integers(len(self.stock.goods))]
            pixels, product = _read(background, self.stock.channels, self.stock.kind)
            if product is None:
                continue
            canvas = Canvas(pixels.copy(), np.zeros_like(product), product)
            if order.method == PASTE:
                parts = self._paste(canvas, order.defect, generator)
            else:
                parts = self._noise(canvas, generator)
            if parts:
                self._write(order.name, canvas)
                record = {"method": order.method, "background": background.key, "parts": parts}
                return Made(order.name, order.defect, record)
        raise DatasetError(f"no place was found for {order.defect} in {TRIES} tries: {NEXT[self.request.place]}")

    def _write(self, name: str, canvas: Canvas) -> None:
        colours = canvas.image[..., ::-1] if self.stock.channels == 3 else canvas.image
        for folder, content in (("images", colours), ("masks", canvas.mask * 255)):
            _, data = cv2.imencode(".png", content, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
            (self.folder / folder / name).write_bytes(data.tobytes())

    def _paste(self, canvas: Canvas, defect: str, generator: np.random.Generator) -> Parts:
        """Paste as many defects of a type as an image of it has; what became of them."""
        candidates, place, kind = self.stock.parents[defect], self.request.place, self.stock.kind
        wanted = int(generator.choice(self.stock.numbers[defect]))
        drawn = generator.choice(len(candidates), min(wanted, len(candidates)), replace=False)
        areas = [parent.instance.area for parent in candidates]
        target = frame_of(canvas.product, kind)
        parts = []
        for parent in (candidates[i] for i in drawn):
            pixels, around = _read(parent.sample, self.stock.channels, kind)
            assert around is not None, "only defects with a product are in stock"
            cut = pasting.cut_instance(pixels, around, parent.instance)
            # A scaled defect's area stays within those of its type.
            least, most = (float(np.sqrt(area / parent.instance.area)) for area in (min(areas), max(areas)))
            placements = []
            for _ in range(FITS):
                other = candidates[generator.integers(len(candidates))].source
                placements.append(
                    pasting.draw_placement(
                        parent.source, other, target, canvas.product, place, kind, (least, most), generator
                    )
                )
            softness, seamless = float(generator.uniform(*SOFTNESS)), bool(generator.random() < SEAMLESS)
            placement = self._best(cut, placements, canvas, softness, seamless)
            if placement is not None:
                parts.append(
                    {
                        "source": parent.sample.key,
                        "instance": parent.number,
                        "x": round(placement.x, 2),
                        "y": round(placement.y, 2),
                        "degrees": round(float(np.degrees(placement.angle)), 2),
                        "scale": round(placement.scale, 4),
                        "mirror": placement.mirror,
                        "softness": round(softness, 3),
                        "seamless": seamless,
                    }
                )
        return parts

    def _best(
        self, cut: Cut, placements: Sequence[Placement], canvas: Canvas, softness: float, seamless: bool
    ) -> Placement | None:
        """Paste the cut where its seam is least, of the placements where it fits; None if there is none."""
        share = cut.share
        found: list[tuple[float, Placement, Window, Cut]] = []
        for placement in placements:
            placed = pasting.place_cut(cut, placement, canvas.product.shape)
            if placed is None:
                continue
            there = Cut(canvas.image[placed.window], placed.cut.mask, canvas.product[placed.window])
            if self.request.place != ANYWHERE and abs(there.share - share) > pasting.SHARE:
                continue
            lit = pasting.relight(placed.cut, there.pixels, there.product)
            fitted = Cut(lit, placed.cut.mask, placed.cut.product)
            found.append((pasting.seam(fitted, there.pixels), placement, placed.window, fitted))
        for _, placement, window, fitted in sorted(found, key=lambda one: one[0]):
            pixels = fitted.pixels
            if seamless:
                pixels = pasting.without_seam(pixels, canvas.image[window], fitted.mask)
            if self._set(canvas, window, pixels, fitted.mask, softness):
                return placement
        return None

    def _set(self, canvas: Canvas, window: Window, pixels: pasting.Values, wanted: Mask, softness: float) -> bool:
        """Blend into image and mask, unless it would be invisible, too small, or touch an earlier one."""
        room = max(2 * pasting.BORDER + 1, self.stock.rule.merge_gap)
        if (pasting.dilated(canvas.mask, room)[window] & wanted).any():
            return False
        blended = pasting.blend(canvas.image[window], pixels, wanted, softness)
        if blended is None or int(blended[1].sum()) < self.stock.rule.min_area:
            return False
        canvas.image[window] = blended[0]
        canvas.mask[window] |= blended[1]
        return True

    def _noise(self, canvas: Canvas, generator: np.random.Generator) -> Parts:
        """Set one blob of noise, of a size that defects have, filled with a piece of another good image."""
        low, high = self.stock.areas
        blob = perlin.noise_mask(float(np.exp(generator.uniform(np.log(low), np.log(high)))), generator)
        other = self.stock.goods[generator.integers(len(self.stock.goods))]
        texture, _ = _read(other, self.stock.channels, self.stock.kind)
        allowed = canvas.product if self.request.place != ANYWHERE else np.ones_like(canvas.product)
        x, y = pasting.random_pixel(allowed, generator)
        around = np.pad(blob, pasting.BORDER)
        height, width = around.shape
        top, left = y - height // 2, x - width // 2
        rows, columns = canvas.mask.shape
        if min(top, left) < 0 or top + height > rows or left + width > columns:
            return []
        if height > texture.shape[0] or width > texture.shape[1]:
            return []
        window = (slice(top, top + height), slice(left, left + width))
        filled = perlin.fill(canvas.image[window], texture, generator)
        softness = float(generator.uniform(*SOFTNESS))
        if not self._set(canvas, window, filled, around, softness):
            return []
        return [{"source": other.key, "x": x, "y": y, "softness": round(softness, 3)}]
