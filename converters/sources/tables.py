"""Tables that people write about their images: CSV from an editor or from a spreadsheet."""

import csv
from collections.abc import Iterator
from pathlib import Path

from converters.cli.errors import DatasetError


def read_pairs(path: Path, header: tuple[str, str], option: str = "") -> Iterator[tuple[int, str, str]]:
    """(line, image, what is said of it) of a table of two columns, the image's path with slashes.

    Spreadsheets put a byte order mark in front, semicolons between the columns and empty lines at the end; spaces
    around a cell and the case of the header mean nothing. Raises DatasetError, with ``option`` in front, for anything
    else, and for an image that is named twice and differently.
    """
    name = f"{option} {path}".lstrip()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = ";" if ";" in file.readline() else ","
            file.seek(0)
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=separator)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{name}: is no CSV table that can be read ({error})") from None
    if not rows or tuple(cell.lower() for cell in rows[0]) != header:
        raise DatasetError(f"{name}: the first line must be {','.join(header)}")
    said: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        if len(row) != 2 or not all(row):
            raise DatasetError(f"{name}: line {number} must be an image's path and its {header[1]}")
        image = row[0].replace("\\", "/")
        if said.setdefault(image, row[1]) != row[1]:
            raise DatasetError(f"{name}: line {number} gives {image} another {header[1]} than a line before")
        yield number, image, row[1]
