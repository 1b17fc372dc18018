"""Random masks for property tests."""

import numpy as np
from hypothesis import strategies as st

from converters.masks.instances import Instance


@st.composite
def random_masks(draw: st.DrawFn, longest: int = 26) -> np.ndarray:
    """H x W of 0 and 1: rectangles in rectangles, lines, single pixels and noise; sometimes empty or full."""
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    mask = np.full((height, width), draw(st.sampled_from([0, 0, 0, 1])), np.uint8)
    for kind in draw(st.lists(st.sampled_from(["box", "ring", "line", "diagonal", "dot", "noise"]), max_size=6)):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        extent = draw(st.integers(1, longest))
        value = draw(st.sampled_from([0, 1, 1]))
        if kind == "box":
            mask[y : y + extent, x : x + draw(st.integers(1, longest))] = value
        elif kind == "ring":
            mask[y : y + extent, x : x + extent] = value
            mask[y + 1 : y + extent - 1, x + 1 : x + extent - 1] = 1 - value
        elif kind == "line":
            mask[y, x : x + extent] = value
        elif kind == "diagonal":
            steps = np.arange(min(extent, width - x, height - y))
            mask[y + steps, x + steps] = value
        elif kind == "dot":
            mask[y, x] = value
        else:
            rng = np.random.default_rng(draw(st.integers(0, 10**6)))
            mask[rng.random(mask.shape) < draw(st.sampled_from([0.05, 0.5]))] = value
    return mask


def whole(instance: Instance, shape: tuple[int, ...]) -> np.ndarray:
    """The instance on a canvas of the image's shape."""
    canvas = np.zeros(shape, np.uint8)
    x0, y0, x1, y1 = instance.xyxy
    canvas[y0:y1, x0:x1] = instance.mask
    return canvas
