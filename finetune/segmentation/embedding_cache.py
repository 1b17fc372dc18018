"""Image embeddings on disk: the frozen encoder, which takes nearly all of SAM's time, runs once for each view.

An entry is one float16 array, C x g x g, in a .npy file that is memory-mapped when read. Its name is a SHA-256 over
the image file's bytes, the encoder's weights and geometry, and the view, so nothing stale is ever found.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.cli.errors import DatasetError

VERSION = 2  # of what an entry is; part of its name
HEADER = 128  # bytes before the values of a .npy file
GB = 10**9
Half = NDArray[np.float16]


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder of embeddings of one encoder and, it may be, of others, that takes ``most`` bytes at most."""

    folder: Path
    encoder: str  # a hash of its weights, with its geometry
    shape: tuple[int, int, int]
    most: int

    @property
    def entry_bytes(self) -> int:
        return HEADER + 2 * int(np.prod(self.shape))

    def key(self, image: Path, view: int) -> str:
        with image.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(f"{VERSION} {content} {self.encoder} {self.shape} {view}".encode()).hexdigest()

    def read(self, key: str) -> Half | None:
        """An entry, memory-mapped; None where there is none, or one that was cut short or is of another kind."""
        try:
            found = np.load(self._path(key), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if found.shape == self.shape and found.dtype == np.float16 else None

    def write(self, key: str, embedding: NDArray[Any]) -> None:
        """Add an entry whole or not at all; raises DatasetError for values that 16 bits can't hold."""
        with np.errstate(over="ignore"):
            half = embedding.astype(np.float16)
        if not np.isfinite(half).all():
            raise DatasetError("an embedding has values beyond float16: these weights need --train all (no cache)")
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.save(file, half, allow_pickle=False)
        partial.replace(path)

    def make_room(self, needed: Iterable[str]) -> None:
        """Remove the entries used longest ago, none of ``needed``, until all of ``needed`` fit within the bound.

        Raises DatasetError where they can't.
        """
        keep = {self._path(key) for key in needed}
        wanted = len(keep) * self.entry_bytes
        if wanted > self.most:
            raise DatasetError(
                f"--cache-gb {self.most / GB:g}: {wanted / GB:.2f} GB of embeddings are needed: "
                "raise it, or take fewer --views"
            )
        others = sorted((path.stat().st_mtime, path) for path in self.folder.glob("*/*.npy") if path not in keep)
        total = wanted + sum(path.stat().st_size for _, path in others)
        for _, path in others:
            if total <= self.most:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)

    def fill(
        self,
        wanted: Sequence[tuple[str, Any]],
        encode: Callable[[Sequence[Any]], NDArray[Any]],
        batch: int,
        advance: Callable[[int], None],
    ) -> int:
        """Make the entries that are missing; how many they were.

        ``wanted`` pairs keys with what ``encode`` makes a batch of embeddings of, B x C x g x g. What is there
        already counts as used now. An interrupted call has kept what it made.
        """
        missing = [(key, source) for key, source in wanted if self.read(key) is None]
        for key in {key for key, _ in wanted} - {key for key, _ in missing}:
            os.utime(self._path(key))
        for start in range(0, len(missing), batch):
            group = missing[start : start + batch]
            for (key, _), embedding in zip(group, encode([source for _, source in group]), strict=True):
                self.write(key, embedding)
            advance(len(group))
        return len(missing)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"
