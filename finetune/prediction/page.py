"""index.html of new images: those most in doubt first; works offline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).with_name("templates")


def write_page(
    path: Path,
    run: str,
    rows: Sequence[Any],
    counts: dict[str, int],
    threshold: float,
    skipped: Sequence[tuple[str, str]],
) -> None:
    """The page of ``rows`` (see `new_images.Judged`), of which there may be fewer than images."""
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["address"] = quote  # file names may hold what a URL may not
    page = environment.get_template("predictions.html").render(
        run=run, rows=rows, counts=counts, threshold=threshold, skipped=skipped
    )
    path.write_text(page, "utf-8")
