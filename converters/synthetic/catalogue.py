"""Names and numbers of the synthetic products."""

from converters.synthetic.circuit import Circuit
from converters.synthetic.plank import Plank
from converters.synthetic.product import Product
from converters.synthetic.washer import Washer
from converters.synthetic.weave import Weave

# The images of a product depend on its place here: another one comes last.
PRODUCTS: dict[str, type[Product]] = {"washer": Washer, "weave": Weave, "circuit": Circuit, "plank": Plank}
VERSION = 1


def counts_of(product: str, small: bool = False) -> dict[str, int]:
    """How many images of each kind: good ones of train and of test, and each type of defect."""
    good, defective = (8, 6) if small else (60, 40)
    return {"train/good": good, "test/good": good, **dict.fromkeys(PRODUCTS[product].DEFECTS, defective)}
