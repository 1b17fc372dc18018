"""What every synthetic product can do; another one is a file of its own and its line in ``catalogue.py``."""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np

from converters.synthetic.camera import Layers, Rng


class Product(ABC):
    """Everything that decides one image of a product, which it draws as it is, or with a defect of its structure.

    Scratches, holes and stains are those of all products: ``defects.py``.
    """

    @classmethod
    @abstractmethod
    def random(cls, rng: Rng) -> Self:
        """A random good one."""

    @abstractmethod
    def draw(self) -> Layers:
        """The scene without noise. The same product is drawn the same each time."""

    @abstractmethod
    def missing_part(self, rng: Rng) -> tuple[Self, np.ndarray | None]:
        """The product with a part missing, and the defect's (H, W) bool mask; None for all that visibly changed."""

    @abstractmethod
    def misplaced(self, rng: Rng) -> tuple[Self, np.ndarray | None]:
        """The product with a part in the wrong place, and the defect's mask as for ``missing_part``."""
