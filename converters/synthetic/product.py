"""What every synthetic product can do; another one is a file of its own and its line in ``catalogue.py``."""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np

from converters.synthetic.camera import Layers, Rng, changed
from converters.synthetic.defects import hole, scratch, stain


class Product(ABC):
    """Everything that decides one image of a product, which it draws as it is or with a defect."""

    DEFECTS: ClassVar[tuple[str, ...]]  # the types that it can have

    @classmethod
    @abstractmethod
    def random(cls, rng: Rng) -> Self:
        """A random good one."""

    @abstractmethod
    def draw(self) -> Layers:
        """The scene without noise. The same product is drawn the same each time."""

    @abstractmethod
    def damaged(self, defect: str, layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """The scene with one of DEFECTS, (H, W, C) without noise, and the defect's (H, W) bool mask.

        ``layers`` is what ``draw`` returns. The mask may be empty, where the defect fell off the product.
        """


class SampleProduct(Product):
    """A product of the sample: scratches, holes and stains on its surface, and two defects of its own structure."""

    DEFECTS = ("scratch", "hole", "stain", "missing_part", "misplaced")

    @abstractmethod
    def missing_part(self, rng: Rng) -> tuple[Self, np.ndarray | None]:
        """The product with a part missing, and the defect's (H, W) bool mask; None for all that visibly changed."""

    @abstractmethod
    def misplaced(self, rng: Rng) -> tuple[Self, np.ndarray | None]:
        """The product with a part in the wrong place, and the defect's mask as for ``missing_part``."""

    def damaged(self, defect: str, layers: Layers, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """Described in Product."""
        on_surface = {"scratch": scratch, "hole": hole, "stain": stain}
        if defect in on_surface:
            return on_surface[defect](layers, rng)
        other, exact = self.missing_part(rng) if defect == "missing_part" else self.misplaced(rng)
        image = other.draw().image
        return image, changed(layers.image, image) if exact is None else exact
