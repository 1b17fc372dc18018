"""The cache of embeddings: what is found again, what is made again, and how much it keeps."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.cli.errors import DatasetError
from finetune.segmentation.embedding_cache import EmbeddingCache

SHAPE = (4, 3, 3)


def cache_in(folder: Path, entries: int = 10, encoder: str = "one") -> EmbeddingCache:
    return EmbeddingCache(folder, encoder, SHAPE, most=entries * (128 + 72))


def filled(cache: EmbeddingCache, keys: list[str], batch: int = 2) -> list[list[Any]]:
    """Fill with what the keys' places in the list say; the batches that were encoded."""
    calls: list[list[Any]] = []

    def encode(sources: Any) -> np.ndarray:
        calls.append(list(sources))
        return np.stack([np.full(SHAPE, source, np.float32) for source in sources])

    cache.fill([(key, place) for place, key in enumerate(keys)], encode, batch, lambda count: None)
    return calls


def test_entry_is_half_of_the_encoders_precision_and_memory_mapped(tmp_path: Path) -> None:
    cache, values = cache_in(tmp_path), np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    cache.write("abcd", values)
    found = cache.read("abcd")
    assert isinstance(found, np.memmap) and found.dtype == np.float16
    assert np.abs(found - values).max() <= np.abs(values).max() * 2**-11
    assert next(tmp_path.glob("*/*.npy")).stat().st_size == cache.entry_bytes


def test_only_what_is_missing_is_encoded(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    assert filled(cache, ["a0", "b1", "c2"]) == [[0, 1], [2]]
    assert filled(cache, ["a0", "b1", "c2", "d3"]) == [[3]]
    assert float(np.asarray(cache.read("c2")).max()) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape", "no array"])
def test_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    cache = cache_in(tmp_path)
    filled(cache, ["a0"])
    path = next(tmp_path.glob("*/*.npy"))
    data = path.read_bytes()
    if damage == "other shape":
        np.save(path, np.zeros((2, 2), np.float16))
    else:
        path.write_bytes({"cut": data[:-1], "empty": b"", "no array": b"x" * len(data)}[damage])
    assert cache.read("a0") is None
    assert filled(cache, ["a0"]) == [[0]]
    assert path.read_bytes() == data


def test_key_depends_on_content_encoder_and_view(tmp_path: Path) -> None:
    image, other = tmp_path / "a.png", tmp_path / "b.png"
    image.write_bytes(b"pixels")
    other.write_bytes(b"pixels")
    cache = cache_in(tmp_path)
    assert cache.key(image, 0) == cache.key(other, 0)  # the name says nothing
    assert cache.key(image, 0) != cache.key(image, 1)
    assert cache.key(image, 0) != cache_in(tmp_path, encoder="two").key(image, 0)
    before = cache.key(image, 0)
    image.write_bytes(b"pixelz")
    assert cache.key(image, 0) != before


def test_interruption_keeps_what_was_made_and_leaves_nothing_half(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)

    def encode(sources: Any) -> np.ndarray:
        if 2 in sources:
            raise KeyboardInterrupt
        return np.zeros((len(sources), *SHAPE), np.float32)

    with pytest.raises(KeyboardInterrupt):
        cache.fill([("a0", 0), ("b1", 1), ("c2", 2)], encode, 1, lambda count: None)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["a0.npy", "b1.npy"]


def test_bound_removes_what_was_used_longest_ago_and_nothing_needed(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, entries=3)
    filled(cache, ["a0", "b1", "c2"])
    for age, key in enumerate(["b1", "a0", "c2"]):
        os.utime(tmp_path / key[:2] / f"{key}.npy", (age + 1, age + 1))
    cache.make_room(["b1", "d3"])  # b1 is oldest, but needed
    assert sorted(path.stem for path in tmp_path.glob("*/*.npy")) == ["b1", "c2"]


def test_too_small_a_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"--cache-gb .* are needed"):
        cache_in(tmp_path, entries=1).make_room(["a0", "b1"])


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="float16"):
        cache_in(tmp_path).write("a0", np.full(SHAPE, 1e6, np.float32))
    assert cache_in(tmp_path).read("a0") is None
