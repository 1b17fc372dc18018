"""Exact outlines of instances, with their holes, for readers that fill polygons in two different ways.

COCO (pycocotools) fills what lies inside a polygon by parity, so vertices belong on pixel corners: ``corner_rings``.
YOLO (ultralytics, cv2.fillPoly) paints the line as well, so vertices belong on pixel centres: ``centre_ring``.
Neither format knows holes; both get them in the same ring over a there-and-back bridge.
Given a tolerance, both drop vertices: ``simplified`` decides how many.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from converters.masks.instances import Chain, Instance, Mask

Ring = NDArray[Any]  # N x 2, (x, y) in pixels, pixel edges at whole numbers, not closed
# Freeman directions, counter-clockwise as seen on screen, y downwards: E NE N NW W SW S SE.
_STEPS = np.array([(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)])
_DIRECTION = np.full((3, 3), -1)  # [dy + 1, dx + 1] -> direction
_DIRECTION[_STEPS[:, 1] + 1, _STEPS[:, 0] + 1] = np.arange(8)


def _swept_sides() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For a pixel entered in direction a and left in direction b: how many of its sides lie on the border, and which.

    Border following turns counter-clockwise from the pixel it came from until it meets foreground, so all
    neighbours in between are background. The even ones among them (E, N, W, S) share a side with the pixel.
    """
    count = np.zeros((8, 8), np.int64)
    sides = np.zeros((8, 8, 4), np.int64)
    for entered in range(8):
        for left in range(8):
            back = entered + 4
            turn = (left - back - 1) % 8  # neighbours strictly between the one behind and the next one
            swept = [d % 8 for d in range(back + 1, back + 1 + turn) if d % 2 == 0]
            count[entered, left] = len(swept)
            sides[entered, left, : len(swept)] = swept
    return count, sides


_SIDE_COUNT, _SIDES = _swept_sides()
# Walking with the background on the right, side d of a pixel starts at its corner d - 1.
_SIDE_START = {0: (1, 1), 2: (1, 0), 4: (0, 0), 6: (0, 1)}
_START = np.array([_SIDE_START.get(d, (0, 0)) for d in range(8)])
_INSIDE = 0.01  # px from a pixel's edge
_OFF_MIDDLE = 0.191  # of a diagonal step: the crossing lies at the golden ratio, far from simple fractions
_RESAMPLES = 1000  # points that ultralytics makes of an outline
_LONE_PIXEL = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
_LEAST_TOLERANCE = 0.25  # px; below, hardly a vertex of a pixel outline goes
_LEAST_IOU = 0.5  # COCO's usual limit between hit and miss


def corner_rings(instance: Instance, tolerance: float = 0.0) -> list[Ring]:
    """Outlines on pixel corners, one ring per connected part, in image coordinates.

    A ring's shoelace area is the part's number of pixels: outer borders run counter-clockwise on screen,
    holes clockwise. A hole is reached from the ring's first vertex and left the same way, which cancels out
    under parity filling. With a ``tolerance`` (px) borders stay as near as that to their pixels, keep their
    bounding boxes and do not cross each other.
    """
    origin = np.array([instance.x0, instance.y0])
    parts = [[_corners(chain) for chain in chains] for chains in instance.borders]
    if tolerance:
        rings = [ring for part in parts for ring in part]
        fewer = iter(_with_fewer_vertices(rings, [_extremes(ring) for ring in rings], tolerance, apart=True))
        parts = [[next(fewer) for _ in part] for part in parts]
    return [_bridged(part) + origin for part in parts]


def _bridged(rings: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    if len(rings) == 1:
        return rings[0]
    home = rings[0][:1]
    return np.vstack([rings[0], *(piece for hole in rings[1:] for piece in (home, hole, hole[:1]))])


def _corners(chain: Chain) -> NDArray[np.int64]:
    """The crack between foreground and background along a chain of border pixels, corners only."""
    if len(chain) == 1:
        return chain + _LONE_PIXEL
    out = _directions(chain)
    entered = np.roll(out, 1)
    count = _SIDE_COUNT[entered, out]
    pixel = np.repeat(np.arange(len(chain)), count)
    nth = np.arange(len(pixel)) - np.repeat(np.cumsum(count) - count, count)
    side = _SIDES[entered[pixel], out[pixel], nth]
    turns = side != np.roll(side, 1)
    return chain[pixel[turns]] + _START[side[turns]]


def _directions(chain: Chain) -> NDArray[np.int64]:
    step = np.roll(chain, -1, axis=0) - chain
    return _DIRECTION[step[:, 1] + 1, step[:, 0] + 1]


def centre_ring(instance: Instance, tolerance: float = 0.0) -> Ring:
    """One outline on pixel centres, in image coordinates, for readers that truncate to whole pixels and paint the line.

    ultralytics puts further points between the vertices, so a diagonal step, whose middle is the corner of four
    pixels, goes round over foreground where it can. ultralytics also derives boxes from the outermost vertices,
    so a vertex is added at each extreme, almost at its pixel's edge: truncated, it stays in its pixel, and the
    box is right within 0.01 pixels. Bridges to holes run over foreground only. With a ``tolerance`` the border
    stays as near as that (px) to its pixels, and the bridges and the box stay as they are.

    Raises ValueError if the instance has several parts: one row holds one polygon.
    """
    parts = instance.borders
    if len(parts) > 1:
        raise ValueError(f"an instance of {len(parts)} separate parts does not fit one polygon")
    if tolerance:
        ring = _joined_with_fewer_vertices(parts[0], tolerance)
    else:
        ring = _straightened(_stepped(_joined(parts[0]), instance.mask))
    first, last = enumerate(ring.argmin(axis=0)), enumerate(ring.argmax(axis=0))
    spikes = [(at, axis, np.floor(ring[at, axis]) + _INSIDE) for axis, at in first]
    spikes += [(at, axis, np.floor(ring[at, axis]) + 1 - _INSIDE) for axis, at in last]
    for at, axis, value in sorted(spikes, reverse=True):
        spike = ring[at].copy()
        spike[axis] = value
        ring = np.insert(ring, at + 1, [spike, ring[at]], axis=0)
    return ring + np.array([instance.x0, instance.y0])


def _stepped(chain: Chain, mask: Mask) -> Ring:
    """Pixel centres along a closed chain, with one more vertex in every diagonal step.

    It is the neighbour on the walker's left where that is foreground. Otherwise the two pixels touch at a
    corner only: a vertex on the way moves the crossing away from the middle, where added points like to fall.
    """
    step = np.roll(chain, -1, axis=0) - chain
    diagonal = (np.abs(step) == 1).all(axis=1)
    start, step = chain[diagonal], step[diagonal]
    left = start + np.where(step[:, :1] == step[:, 1:], step * (1, 0), step * (0, 1))
    solid = mask[left[:, 1], left[:, 0]] > 0
    extra = np.where(solid[:, None], left + 0.5, start + 0.5 + step * _OFF_MIDDLE)
    return np.insert(chain + 0.5, np.flatnonzero(diagonal) + 1, extra, axis=0)


def _joined(chains: list[Chain]) -> Chain:
    """One chain through the outer border and all holes.

    From a hole's leftmost border pixel a bridge runs left over foreground to the next border. That border
    starts further left, so attaching the rightmost holes first always finds its target still separate.
    """
    if len(chains) == 1:
        return chains[0]
    outer, *holes = chains
    borders = [outer, *sorted(holes, key=lambda hole: hole[:, 0].min())]
    walk = _Walk(borders)
    for number in range(len(borders) - 1, 0, -1):
        walk.attach(number)
    return walk.whole()


class _Walk:
    """Closed chains as one linked list of vertices, into which a chain is spliced without moving the others.

    Each pixel keeps the list of the vertices that stand on it, so that the next border to the left is looked up
    instead of searched for: the time grows with the number of vertices, not with its product with the holes.
    """

    def __init__(self, borders: list[Chain]) -> None:
        self.points = np.concatenate(borders)
        sizes = [len(border) for border in borders]
        self.first = np.cumsum([0, *sizes]).tolist()  # of each chain, its first vertex
        self.start = [int(border[:, 0].argmin()) for border in borders]  # where a hole is entered
        self.start = [first + at for first, at in zip(self.first, self.start, strict=False)]
        self.chain = np.repeat(np.arange(len(borders)), sizes).tolist()  # of each vertex
        self.next = list(range(1, len(self.points) + 1))
        for begin, end in pairwise(self.first):
            self.next[end - 1] = begin
        self.vertex = list(range(len(self.points)))  # of each step of the walk; bridges come back to vertices
        self.last = self.vertex.copy()  # of each vertex, the step at which what is spliced in behind it ends
        self.into: list[int | None] = [None] * len(borders)  # of each chain, the vertex that it is attached behind
        columns = self.points[:, 0].astype(np.int64)
        self.row = int(columns.max()) + 1
        places = self.points[:, 1] * self.row + columns
        self.order = np.argsort(places, kind="stable").tolist()
        self.pixels, begins = np.unique(places[self.order], return_index=True)
        self.begins = [*begins.tolist(), len(self.points)]
        self.root = list(range(len(borders)))

    def attach(self, hole: int) -> None:
        """Splice a chain into the next border to its left, and the way there and back."""
        start = self.start[hole]
        target = self._next_border_to_the_left(hole)
        before = start - 1 if start > self.first[hole] else self.first[hole + 1] - 1
        closing = len(self.vertex)  # the hole's first vertex again, then the target's
        self.vertex += [start, target]
        self.next += [closing + 1, self.next[target]]
        self.next[self.last[before]] = closing
        self.next[target] = start
        if self.last[target] == target:
            self.last[target] = closing + 1
        self.into[hole] = target
        self.root[hole] = self.chain[target]

    def whole(self) -> Chain:
        """The vertices of the outer border and what is attached to it, in order."""
        step, steps = 0, []
        for _ in self.vertex:
            steps.append(self.vertex[step])
            step = self.next[step]
        return self.points[steps]

    def _next_border_to_the_left(self, hole: int) -> int:
        """The vertex of another border that is met first going left from where a hole begins (or standing there)."""
        x, y = self.points[self.start[hole], :2].tolist()
        at = int(np.searchsorted(self.pixels, y * self.row + x))
        here = [vertex for vertex in self._on(at) if self._root(self.chain[vertex]) != hole]
        found = here or self._on(at - 1)
        return found[0] if len(found) == 1 else min(found, key=self._place)

    def _on(self, pixel: int) -> list[int]:
        return self.order[self.begins[pixel] : self.begins[pixel + 1]]

    def _root(self, chain: int) -> int:
        """The border that a chain has been attached to so far."""
        while self.root[chain] != chain:
            self.root[chain] = self.root[self.root[chain]]
            chain = self.root[chain]
        return chain

    def _place(self, vertex: int) -> tuple[int, ...]:
        """The place of a vertex: its border, then its position there; what was spliced in last comes first."""
        place: list[int] = []
        chain = self.chain[vertex]
        while (target := self.into[chain]) is not None:
            size = self.first[chain + 1] - self.first[chain]
            place = [chain, (vertex - self.start[chain]) % size, *place]
            vertex, chain = target, self.chain[target]
        return chain, vertex, *place


def _straightened(ring: Ring) -> Ring:
    """Drop what lies within horizontal and vertical runs."""
    heading = np.sign(np.roll(ring, -1, axis=0) - ring)
    goes_on = (heading == np.roll(heading, 1, axis=0)).all(axis=1) & (heading == 0).any(axis=1)
    return ring[~goes_on | (heading == 0).all(axis=1)]


def _joined_with_fewer_vertices(chains: list[Chain], tolerance: float) -> Ring:
    """Pixel centres along a part's border; the ends of bridges, where one chain meets another, stay."""
    numbered = [np.insert(chain, 2, number, axis=1) for number, chain in enumerate(chains)]
    joined = _joined(numbered)
    centres, of_chain = joined[:, :2] + 0.5, joined[:, 2]
    ends = (of_chain != np.roll(of_chain, 1)) | (of_chain != np.roll(of_chain, -1))
    kept = sorted({*_extremes(centres), *np.flatnonzero(ends).tolist()})
    return _with_fewer_vertices([centres], [kept], tolerance, apart=False)[0]


def _extremes(ring: Ring) -> list[int]:
    """The first vertex of a ring on each side of its bounding box."""
    return sorted({*ring.argmin(axis=0).tolist(), *ring.argmax(axis=0).tolist()})


def _with_fewer_vertices(rings: list[Ring], kept: list[list[int]], tolerance: float, apart: bool) -> list[Ring]:
    """Douglas-Peucker between the vertices that are ``kept`` (indices, one or more a ring).

    With ``apart`` lines that did not cross before do not cross afterwards. (Out-and-back lines lie on each other
    and would all stay.)
    """
    arcs = []
    for ring, at in zip(rings, kept, strict=True):
        closed = np.vstack([ring[at[0] :], ring[: at[0] + 1]])
        cuts = [*(index - at[0] for index in at), len(ring)]
        arcs += [shapely.LineString(closed[start : end + 1]) for start, end in pairwise(cuts)]
    if apart:
        lines = shapely.get_parts(shapely.simplify(shapely.MultiLineString(arcs), tolerance))
    else:
        lines = shapely.simplify(arcs, tolerance, preserve_topology=False)
    pieces = iter([shapely.get_coordinates(line)[:-1] for line in lines])
    return [np.vstack([next(pieces) for _ in at]) for at in kept]


def simplified(
    instance: Instance,
    tolerance: float,
    trace: Callable[[Instance, float], list[Ring]],
    paint: Callable[[Sequence[Ring], tuple[int, ...]], Mask],
) -> tuple[list[Ring], float]:
    """Outlines of an instance within ``tolerance`` px, and their IoU with its mask when a reader paints them.

    Painted, they have as many parts and holes as the mask, and cover it well enough for a hit. Where the
    tolerance is too much for that, it is halved; thin and small instances may keep their exact outline.
    """
    local = Instance(0, 0, instance.mask, instance.area)
    origin = np.array([instance.x0, instance.y0])
    wanted = _parts_and_holes(instance.mask)
    while tolerance >= _LEAST_TOLERANCE:
        rings = trace(local, tolerance)
        seen = paint(rings, instance.mask.shape)
        iou = np.count_nonzero(seen & instance.mask) / np.count_nonzero(seen | instance.mask)
        if iou >= _LEAST_IOU and _parts_and_holes(seen) == wanted:
            return [ring + origin for ring in rings], float(iou)
        tolerance /= 2
    return trace(instance, 0.0), 1.0


def _parts_and_holes(mask: Mask) -> tuple[int, int]:
    """The number of parts of a mask, which connect at corners, and of holes, which do not."""
    around = np.pad(mask == 0, 1, constant_values=True).view(np.uint8)
    parts = cv2.connectedComponents(np.ascontiguousarray(mask), connectivity=8)[0]
    return parts - 1, cv2.connectedComponents(around, connectivity=4)[0] - 2


def filled_by_parity(rings: Sequence[Ring], shape: tuple[int, ...]) -> Mask:
    """H x W of 0 and 1 as pycocotools fills rings, which are in pixels of the ``shape``."""
    height, width = shape
    flat = [ring.ravel().tolist() for ring in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, height, width)))


def filled_with_lines(rings: Sequence[Ring], shape: tuple[int, ...]) -> Mask:
    """H x W of 0 and 1 as ultralytics paints rings, which are in pixels of the ``shape``.

    It adds points between the vertices until there are 1000, truncates all to whole pixels and paints the lines
    between them, so that a slanting line covers every pixel that it passes through.
    """
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [_resampled(ring).astype(np.int32) for ring in rings], 1)
    return mask


def _resampled(ring: Ring) -> Ring:
    """``ultralytics.utils.ops.resample_segments`` for one ring."""
    closed = np.vstack([ring, ring[:1]])
    if len(closed) >= _RESAMPLES:
        return ring
    vertices = np.arange(len(closed))
    added = np.linspace(0, len(closed) - 1, _RESAMPLES - len(closed))
    at = np.insert(added, np.searchsorted(added, vertices), vertices)
    return np.stack([np.interp(at, vertices, closed[:, axis]) for axis in (0, 1)], axis=1)


def smallest_rectangle(instance: Instance, width: int, height: int) -> Ring:
    """The 4 x 2 corners of the smallest rectangle around the instance that lies inside the image.

    The smallest rectangle of any angle may leave the image, which ultralytics drops as corrupt. The bounding
    box takes its place then.
    """
    x0, y0, x1, y1 = instance.xyxy
    points = np.vstack(corner_rings(instance)).astype(np.float32)
    corners = cv2.boxPoints(cv2.minAreaRect(points)).astype(np.float64)
    if (corners >= 0).all() and (corners <= (width, height)).all():
        return corners
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)
