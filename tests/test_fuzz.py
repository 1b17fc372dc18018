"""Thousands of damaged or odd inputs: read, refused with a DatasetError, or found to differ, and nothing else."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import converted, run_cli, write_category
from hypothesis import HealthCheck, given, settings
from masks import random_masks, whole

from converters.cli.errors import DatasetError
from converters.masks.instances import InstanceRule, find_instances
from converters.masks.polygons import centre_ring, corner_rings, filled_by_parity, filled_with_lines
from converters.masks.reading import mask_of
from converters.sources.reading import read_category
from converters.verification import readers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),  # about files that are refused in one line
]
READ, OUTLINED, VERIFIED = 2_000, 500, 150


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file cut short, or with bytes changed, put in or taken out; most changes are near its beginning."""
    if rng.random() < 0.1:
        return data[: rng.randrange(len(data) + 1)]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = min(len(changed), int(rng.expovariate(4 / (1 + len(changed)))))
        kind = rng.random()
        if kind < 0.7:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind < 0.85:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            del changed[at : at + rng.randint(1, 8)]
    return bytes(changed)


def test_the_reader_takes_or_refuses_whatever_the_files_hold(tmp_path: Path) -> None:
    rng = random.Random(0)
    taken = refused = 0
    folders = [
        write_category(tmp_path / suffix, masks={"crack": 1}, good=(1, 1), mode=mode, suffix=f".{suffix}")
        for suffix, mode in (("png", "L"), ("jpg", "RGB"), ("bmp", "L"), ("tiff", "RGB"))
    ]
    files = [(folder, path, path.read_bytes()) for folder in folders for path in sorted(folder.rglob("*.*"))]
    for _ in range(READ):
        folder, path, data = rng.choice(files)
        path.write_bytes(damaged(data, rng))
        try:
            category = read_category(folder, max_pixels=1_000_000)
            for sample in category.samples:
                if sample.mask:
                    find_instances(mask_of(sample).mask, InstanceRule())
            taken += not category.problems
            refused += bool(category.problems)
        except DatasetError:
            refused += 1
        path.write_bytes(data)
    assert taken > READ / 100 and refused > READ / 10, (taken, refused)


@settings(derandomize=True, deadline=None, max_examples=OUTLINED, suppress_health_check=list(HealthCheck))
@given(mask=random_masks())
def test_any_outline_paints_its_mask(mask: np.ndarray) -> None:
    for instance in find_instances(mask, InstanceRule()):
        expected = whole(instance, mask.shape)
        assert np.array_equal(filled_by_parity(corner_rings(instance), mask.shape), expected)
        assert np.array_equal(filled_with_lines([centre_ring(instance)], mask.shape), expected)


def test_verify_agrees_differs_or_refuses_whatever_a_dataset_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ultralytics.utils.patches")  # it changes how Pillow opens files, as in a real run
    monkeypatch.setattr(readers, "find_spec", lambda name: None)  # but its loader takes seconds
    folder = write_category(tmp_path / "data", masks={"crack": 3}, good=(1, 3))
    dataset = converted("all", folder, tmp_path / "out", "--images", "copy")
    rng = random.Random(0)
    files = [
        path for path in sorted(dataset.rglob("*")) if path.is_file() and path.suffix and "images" not in path.parts
    ]
    codes = []
    for _ in range(VERIFIED):
        path = rng.choice(files)
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(damaged(data, rng))
        result = run_cli("verify", dataset)
        unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
        assert not unexpected and result.exit_code in (0, 1, 2), (path, path.read_bytes()[:2000], result.exception)
        codes.append(result.exit_code)
        path.unlink()
        path.write_bytes(data)
    assert run_cli("verify", dataset).exit_code == 0
    assert {0, 1, 2} == set(codes)
    shutil.rmtree(dataset)
