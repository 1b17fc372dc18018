"""Results as tables or JSON, and progress bars."""

import json
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click


def progress(items: Iterable[Any] | None, length: int, label: str, **settings: Any) -> Any:
    """click's progress bar on stderr, with an estimate; nothing where stderr is no terminal, or in a worker."""
    hidden = not sys.stderr.isatty() or multiprocessing.parent_process() is not None
    return click.progressbar(items, length=length, label=label, file=sys.stderr, hidden=hidden, **settings)


def table(rows: Sequence[Sequence[Any]], header: Sequence[str], style: str = "simple") -> str:
    """Rows as text; ``style`` is any of tabulate's (``simple`` for terminals, ``github`` for Markdown)."""
    from tabulate import tabulate

    return tabulate(rows, header, tablefmt=style, disable_numparse=True, colalign=_alignment(rows, header))


def _alignment(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> list[str] | None:
    if not rows:
        return None
    columns = list(zip(*rows, strict=True))
    return ["right" if all(_numeric(cell) for cell in column) else "left" for column in columns[: len(header)]]


def _numeric(cell: Any) -> bool:
    return isinstance(cell, int | float) or str(cell)[:1].isdigit() or cell in ("", "-")


def to_json(value: Any) -> str:
    """JSON as every file of ours is written: readable, stable, UTF-8."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
