"""Names and numbers of the sample dataset."""

from converters.synthetic.product import Product
from converters.synthetic.washer import Washer
from converters.synthetic.weave import Weave

# The images of a product depend on its place here: another one comes last.
PRODUCTS: dict[str, type[Product]] = {"washer": Washer, "weave": Weave}
DEFECTS = ("scratch", "hole", "stain", "missing_part", "misplaced")
VERSION = 1
FULL_COUNTS = {"train/good": 60, "test/good": 60, **dict.fromkeys(DEFECTS, 40)}
SMALL_COUNTS = {"train/good": 8, "test/good": 8, **dict.fromkeys(DEFECTS, 6)}
