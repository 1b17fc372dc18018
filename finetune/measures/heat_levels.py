"""Heat maps in 16 bits: an order-keeping code of floats, which neither saturates nor loses small values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -14, 16  # log2 of heat / middle: what lies below is 0, what lies above the largest code
CODES = 65535  # but 0; 2184 an octave, twice as many as float16 has: ties of its codes cost pixel AP up to 0.001
ROOM = 1000.0  # what the largest value of val may be, in middles: 65 times as much still has a code


def middle_of(good_peaks: NDArray[Any], largest: float) -> float:
    """The value that heat maps are divided by: the median peak of good images that the model did not learn from.

    ``largest`` is the largest value seen on val: a floor, since a model may find nothing at all in good images.
    """
    middle = float(np.median(good_peaks)) if len(good_peaks) else largest
    return max(middle, largest / ROOM, 1e-9)


def to_levels(heat: NDArray[Any], middle: float) -> NDArray[np.uint16]:
    """Non-negative floats as 16-bit codes of the logarithm of ``heat / middle``: in order, exact to 1 part in 6300."""
    with np.errstate(divide="ignore"):
        share = (np.log2(np.maximum(heat, 0) / middle) - LOWEST) / (HIGHEST - LOWEST)
    return np.rint(np.clip(share, 0, 1) * CODES).astype(np.uint16)


def to_values(levels: NDArray[np.uint16], middle: float = 1.0) -> NDArray[np.float32]:
    """The floats that ``to_levels`` has coded."""
    values = np.exp2(levels * np.float32((HIGHEST - LOWEST) / CODES) + np.float32(LOWEST), dtype=np.float32)
    return np.where(levels > 0, values, 0).astype(np.float32) * np.float32(middle)
