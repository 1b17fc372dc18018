"""Hold what `from_labelme` paints against labelme's own `shapes_to_label`, on random shapes.

Usage: pip install --no-deps --target DIR labelme; python tests/readers/labelme_shapes.py DIR

Prints labelme's version and how many shapes differ. Only its file utils/shape.py is loaded: labelme is a program with
windows, and needs Qt.
"""

import importlib.util
import sys
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from converters.cli.errors import DatasetError
from converters.importing.labelme_labels import Shape, paint

WIDTH, HEIGHT, SHAPES = 60, 50, 2000
POINTS = {"polygon": (3, 12), "rectangle": (2, 3), "circle": (2, 3), "oriented_rectangle": (4, 5)}  # from, below


def main(folder: Path) -> None:
    sys.modules["labelme._label_file"] = SimpleNamespace(ShapeDict=dict)  # type: ignore[assignment]
    spec = importlib.util.spec_from_file_location("shape", folder / "labelme" / "utils" / "shape.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    rng = np.random.default_rng(0)
    compared = different = 0
    for number in range(SHAPES):
        kind = list(POINTS)[number % len(POINTS)]
        points = rng.random((int(rng.integers(*POINTS[kind])), 2)) * (WIDTH, HEIGHT)
        shape = {"label": "dent", "points": points.round(int(rng.integers(0, 4))).tolist(), "shape_type": kind}
        try:
            ours = paint([(1, Shape(**shape))], WIDTH, HEIGHT)
        except DatasetError:
            continue  # a circle that reaches far beyond the image
        compared += 1
        different += not np.array_equal(ours, theirs.shapes_to_label((HEIGHT, WIDTH), [shape], {"dent": 1})[0])
    version = next(d.version for d in distributions(path=[str(folder)]) if d.metadata["Name"] == "labelme")
    print(f"labelme {version}: {different} of {compared} shapes are painted otherwise")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
