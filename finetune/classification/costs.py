"""The table of what each decision costs, read from CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from converters.cli.errors import DatasetError
from finetune.measures.decisions import Array


def read_costs(path: Path, names: Sequence[str]) -> Array:
    """A CSV of what each decision (column) costs for each truth (row), C x C, with class names on both sides."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [row for row in csv.reader(file) if row]
        table = {row[0]: dict(zip(header[1:], map(float, row[1:]), strict=True)) for row in rows}
        return np.array([[table[truth][decision] for decision in names] for truth in names])
    except OSError as error:
        raise DatasetError(f"--cost {path}: {error.strerror}") from None
    except (ValueError, KeyError) as error:
        raise DatasetError(
            f"--cost {path}: needs a row and a column of numbers for each of {', '.join(names)} ({error})"
        ) from None
