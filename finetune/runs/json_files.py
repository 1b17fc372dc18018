"""JSON files, read or refused in one line."""

import json
from pathlib import Path
from typing import Any

from converters.cli.errors import DatasetError


def read_json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path}: is no JSON ({error})") from None
    if not isinstance(value, kind):
        raise DatasetError(f"{path}: a JSON {'list' if kind is list else 'object'} is needed")
    return value
