"""The one door to source folders: which layout a folder has, and what lies in it.

A layout says where images and masks lie (see ``layouts.Reader``); what happens to them then is the same for all.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from converters.sources.image_files import read_sample
from converters.sources.layouts import LAYOUTS
from converters.sources.options import DEFAULT_ROOT
from converters.sources.samples import (
    NO_TEXT,
    Aside,
    Category,
    Listed,
    Problem,
    Sample,
    files,
    files_below,
    fits_text_files,
    folders,
    hidden_images,
    is_note,
    looks_like_image,
    mask_files,
    summed_up,
    told,
)

NOTE = "texts and documents among the images, not taken"
ELSEWHERE = "images where this layout looks for none, not taken"
AT_ONCE = 1000  # images that are being read: each takes a kilobyte until it is
SYNTHETIC = "synthetic.json"  # lies in every category folder that `converters.sample` writes


def find_root(root: Path | None) -> Path:
    """The folder to read: ``--root``, else ``$MVTEC_ROOT``, else ``data/mvtec_anomaly_detection``."""
    found = root or Path(os.environ.get("MVTEC_ROOT") or DEFAULT_ROOT)
    if found.is_file():
        raise DatasetError(f"{found}: is a file, and a folder is needed: unpack it, or name the folder that it lies in")
    if not found.is_dir():
        raise DatasetError(
            f"{found}: no such folder. Name your data with --root DIR (or $MVTEC_ROOT), get MVTec AD with "
            "`python -m converters.download`, or make a sample with `python -m converters.sample`"
        )
    return found


def find_categories(root: Path, wanted: str | None, layout: str = "auto") -> list[Path]:
    """The category folders that ``--category`` asks for; a root that is a category itself is the only one.

    Says on stderr what was guessed, except for MVTec AD's layout.
    """
    candidates = [root.resolve(), *folders(root)]
    layouts = {path: name for path in candidates if (name := find_layout(path, layout))}
    if not layouts:
        expected = LAYOUTS["mvtec" if layout == "auto" else layout].TREE
        other = "; for other layouts see --layout" if layout == "auto" else ""
        raise DatasetError(f"{root}: no folder in it holds {expected}; name the right one with --root{other}")
    found = [root.resolve()] if root.resolve() in layouts else list(layouts)
    chosen = found if wanted == "all" or (wanted is None and len(found) == 1) else _named(root, found, wanted)
    if wanted == "all" and found[0] != root.resolve():
        others = [path for path in folders(root) if path not in layouts and any(map(looks_like_image, files(path)))]
        for line in told(Aside(path.name, "folders of images that are no category, not taken") for path in others):
            click.echo(line, err=True)
    if layout == "auto":
        for line in dict.fromkeys(filter(None, map(_guessed, chosen))):
            click.echo(line, err=True)
    return chosen


def _guessed(folder: Path) -> str:
    """What is told of a guess: from what, and the second best; nothing of a folder that can only be MVTec AD's."""
    first, *others = _layouts_of(folder)
    if first == "mvtec" and not others:
        return ""
    instead = f", or else {others[0]} ({LAYOUTS[others[0]].TREE})" if others else ""
    return f"layout: {first}, guessed from {LAYOUTS[first].TREE}{instead}; --layout names another"


def _named(root: Path, found: list[Path], wanted: str | None) -> list[Path]:
    names = ", ".join(path.name for path in found)
    if wanted is None:
        raise DatasetError(f"{root} holds several categories: add --category with one of {names}, or all")
    chosen = [path for path in found if path.name == wanted]
    if not chosen:
        raise DatasetError(f"{root} has no category {wanted!r}; it holds {names}")
    return chosen


def find_layout(folder: Path, layout: str = "auto") -> str:
    """The layout whose category this folder is; empty if it is none, or not of the layout that was asked for."""
    if layout != "auto":
        return layout if LAYOUTS[layout].is_category(folder) else ""
    return next(_layouts_of(folder), "")


def _layouts_of(folder: Path) -> Iterator[str]:
    """The layouts that a folder could have, the likeliest first."""
    return (name for name, reader in LAYOUTS.items() if reader.is_category(folder))


def read_category(
    folder: Path, max_pixels: int = 256_000_000, layout: str = "auto", threads: int | None = None
) -> Category:
    """Read one category folder; images are identified, hashed and checked for truncation, not decoded.

    Raises DatasetError if the folder is no category. What is wrong with single files is in ``problems``.
    """
    name = find_layout(folder, layout)
    if not name:
        raise DatasetError(f"{folder}: a category needs {LAYOUTS['mvtec' if layout == 'auto' else layout].TREE}")
    if not fits_text_files(folder.name):
        raise DatasetError(f"{folder.name!a}: {NO_TEXT}")
    entries = [_unless_note(folder, entry) for entry in LAYOUTS[name].list_images(folder)]
    listed = sorted(
        (entry for entry in entries if isinstance(entry, Listed)),
        key=lambda entry: entry.image.relative_to(folder).as_posix(),
    )
    if not listed:
        raise DatasetError(f"{folder}: no images in {LAYOUTS[name].TREE}")
    with ThreadPoolExecutor(threads) as pool:
        blocks = (listed[start : start + AT_ONCE] for start in range(0, len(listed), AT_ONCE))
        results = (pool.map(lambda entry: read_sample(folder, entry, max_pixels), block) for block in blocks)
        with progress(chain.from_iterable(results), len(listed), f"reading {folder.name}") as bar:
            outcomes = list(bar)
    marker = folder / SYNTHETIC
    problems = [outcome for outcome in (*outcomes, *entries) if isinstance(outcome, Problem)]
    samples = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    remade = (Aside(sample.image.relative_to(folder).as_posix(), sample.remade) for sample in samples if sample.remade)
    noted = (entry for entry in entries if isinstance(entry, Aside))
    return Category(
        name=folder.name,
        folder=folder,
        samples=samples,
        problems=problems,
        synthetic=marker.is_file() and "converters.sample" in marker.read_text("utf-8", "replace"),
        layout=name,
        asides=tuple(summed_up((*noted, *remade, *_not_taken(folder, entries)))),
    )


def _unless_note(folder: Path, entry: Listed | Problem | Aside) -> Listed | Problem | Aside:
    """An entry of a reader; of a text or document where images are looked for, what is told of it.

    What a reader says of tables, which lie beside these folders, stays.
    """
    if isinstance(entry, Aside):
        return entry
    path = entry.image if isinstance(entry, Listed) else folder / entry.file
    if path.parent == folder or not is_note(path) or not path.is_file():
        return entry
    return Aside(path.relative_to(folder).as_posix(), NOTE)


def _not_taken(folder: Path, entries: Iterable[Listed | Problem | Aside]) -> Iterator[Aside]:
    """Images of a category folder that its reader said nothing of."""
    said = set()
    for entry in entries:
        if isinstance(entry, Listed):
            said.add(str(entry.image))
            said.update(map(str, mask_files(entry.mask) if entry.mask else ()))
        else:
            said.add(str(folder / entry.file))
    for path in files_below(folder):
        if looks_like_image(path) and said.isdisjoint((str(path), str(path.parent))):
            yield Aside(path.relative_to(folder).as_posix(), ELSEWHERE)
    yield from hidden_images(folder)
