"""Checking at the door: what comes from outside is read through one type a file kind, or refused in one line.

The type is a ``Checked`` or, for records that stay dictionaries, a TypedDict (of typing_extensions) under
``@with_config(STRICT)``; dataclasses may be inside. Nothing is converted: a number in quotes is no number, and NaN and
infinity are none either. Inside, code trusts its types.

Importing this costs a tenth of a second: no command may do so before its work begins.
"""

import codecs
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from converters.cli.errors import DatasetError

M = TypeVar("M")
STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")  # what the type does not name is kept


class Checked(BaseModel):
    """A file, or a part of one, as a pydantic model; what it does not name is ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(  # a class brings its rules, a list of something has none
    lambda model: TypeAdapter(model, config=None if isinstance(model, type) else STRICT)
)


def read_json(path: Path, model: type[M], step: str = "") -> M:
    """The content of a JSON file; raises DatasetError ``FILE: field: what is wrong: step``.

    ``step`` is what the user can do about a file that is missing or wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(_line(path, error.strerror, step)) from None
    return check_json(content.removeprefix(codecs.BOM_UTF8), model, str(path), step)


def read_yaml(path: Path, model: type[M], step: str = "", as_text: bool = False) -> M:
    """The content of a YAML file, which cannot run code; raises DatasetError as ``read_json`` does.

    ``as_text``: words and numbers are taken as they stand there (``no``, ``0010``, ``~``), as names want it, and a key
    that comes twice is a fault, where otherwise the last one counts.
    """
    try:
        loader = (_Text if as_text else yaml.SafeLoader)(path.read_text("utf-8"))
        value = loader.get_single_data()
    except OSError as error:
        raise DatasetError(_line(path, error.strerror, step)) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(_line(path, f"is no YAML ({str(error).partition(chr(10))[0]})", step)) from None
    return check(value, model, str(path), step)


class _Text(yaml.BaseLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [repr(self.construct_object(key, deep=True)) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(problem=f"the key {twice[0]} comes twice")
        return super().construct_mapping(node, deep)


def check_json(content: bytes, model: type[M], name: str, step: str = "") -> M:
    """The value of a JSON text, a line of a file say; raises DatasetError ``NAME: field: what is wrong: step``."""
    try:
        return _adapter(model).validate_json(content)
    except ValidationError as error:
        raise DatasetError(_line(name, _what(error), step)) from None


def check(value: Any, model: type[M], name: str, step: str = "") -> M:
    """A value that has been parsed already, YAML say; raises DatasetError ``NAME: field: what is wrong: step``."""
    try:
        return _adapter(model).validate_python(value)
    except ValidationError as error:
        raise DatasetError(_line(name, _what(error), step)) from None


def _what(error: ValidationError) -> str:
    """The first fault: ``field.index: what is wrong``, and how many more there are."""
    first, *more = error.errors(include_url=False, include_context=False)
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] not in ("missing", "json_invalid", "value_error"):
        what += f", not {first['input']!r:.40}"
    return " ".join(_line(".".join(map(str, first["loc"])), what).split()) + (
        f" (and {len(more)} more)" if more else ""
    )


def _line(*parts: Any) -> str:
    return ": ".join(str(part) for part in parts if part)
