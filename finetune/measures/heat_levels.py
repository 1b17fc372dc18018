"""Heat maps in 16 bits: an order-keeping code of floats, which neither saturates nor loses small values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = float(np.finfo(np.float16).max)
ROOM = 1000.0  # what the largest value of val may be, in middles: 65 times as much still has a code


def middle_of(good_peaks: NDArray[Any], largest: float) -> float:
    """The value that heat maps are divided by: the median peak of good images that the model did not learn from.

    ``largest`` is the largest value seen on val: a floor, since a model may find nothing at all in good images.
    """
    middle = float(np.median(good_peaks)) if len(good_peaks) else largest
    return max(middle, largest / ROOM, 1e-9)


def to_levels(heat: NDArray[Any], middle: float) -> NDArray[np.uint16]:
    """Non-negative floats as the bit pattern of float16 of ``heat / middle``: in order, exact to 1 part in 2048."""
    return np.clip(heat / middle, 0, LARGEST).astype(np.float16).view(np.uint16)


def to_values(levels: NDArray[np.uint16], middle: float = 1.0) -> NDArray[np.float32]:
    """The floats that ``to_levels`` has coded."""
    return levels.view(np.float16).astype(np.float32) * np.float32(middle)
