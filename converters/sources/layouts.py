"""The layouts of source folders, one module each: another one is a module like these, and its entry in LAYOUTS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from converters.sources import btad, folder, kolektor, loco, magnetic_tile, mvtec, mvtec_3d, mvtec_ad_2, visa
from converters.sources.samples import Aside, Listed, Problem


class Reader(Protocol):
    """The module of a layout: what it looks like, in a line for messages, which folders have it, and what is in them.

    Images are ``Listed``, files that have no place in the layout are a ``Problem``, what is only told an ``Aside``.
    """

    TREE: str

    def is_category(self, folder: Path) -> bool: ...
    def list_images(self, folder: Path) -> Iterator[Listed | Problem | Aside]: ...


# In the order in which a folder is tried; the first five could be taken for MVTec AD's.
LAYOUTS: dict[str, Reader] = {
    "mvtec_3d": mvtec_3d,
    "loco": loco,
    "mvtec_ad_2": mvtec_ad_2,
    "btad": btad,
    "kolektor": kolektor,
    "mvtec": mvtec,
    "visa": visa,
    "magnetic_tile": magnetic_tile,
    "folder": folder,
}
