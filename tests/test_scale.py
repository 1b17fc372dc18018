"""Memory per image: what 100,000 of them would take is told by some thousands."""

import sys
import tracemalloc
from pathlib import Path

import pytest
from conftest import REPOSITORY

from converters.sources.reading import read_category

sys.path.append(str(REPOSITORY / "benchmarks"))
import scale


def peak(folder: Path, count: int) -> int:
    """Bytes that Python has allocated at most while a category of so many images is read; the same everywhere."""
    scale.make_category(folder, count)
    tracemalloc.start(1)
    try:
        assert len(read_category(folder, threads=1).samples) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_reading_takes_less_than_two_kilobytes_an_image(tmp_path: Path) -> None:
    """2.5 with a future for each image."""
    few, many = (peak(tmp_path / f"of-{count}", count) for count in (2000, 4000))
    assert (many - few) / 2000 < 2000
