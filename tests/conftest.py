"""What all tests share: small categories in MVTec layout, and ways to run the commands."""

import hashlib
import os
import signal
import tempfile

# Before anything imports them: one thread each, no network, no settings in the home folder.
os.environ.update(OMP_NUM_THREADS="1", YOLO_OFFLINE="1", YOLO_AUTOINSTALL="False", YOLO_VERBOSE="False")
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="yolo-config-"))

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from converters.__main__ import main
from converters.cli.publishing import MARKER

REPOSITORY = Path(__file__).parents[1]
SCREW = REPOSITORY.parent / "shared" / "data" / "screw"

cv2.setNumThreads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, children would ignore it


def noise(path: Path, size: tuple[int, int], mode: str) -> Image.Image:
    """Random pixels; (width, height), seeded by the path, so that no two images are byte-identical."""
    seed = int.from_bytes(hashlib.sha256("/".join(path.parts[-4:]).encode()).digest()[:8], "big")
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def save_noise(path: Path, size: tuple[int, int] = (48, 40), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(path, size, mode).save(path)
    return path


def save_mask(path: Path, mask: np.ndarray) -> Path:
    """Write H x W of 0 and 1 as 8-bit grey 0 and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((mask > 0).astype(np.uint8) * 255).save(path)
    return path


def blobs(index: int, size: tuple[int, int]) -> np.ndarray:
    """A ring with a hole and a separate 1-px scratch, moved a little by ``index``."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    x, y = index % 5, index % 7
    mask[4 + y : 16 + y, 4 + x : 20 + x] = 1
    mask[8 + y : 12 + y, 9 + x : 15 + x] = 0
    mask[30, 3 + x : 40] = 1
    return mask


def write_category(
    root: Path,
    name: str = "widget",
    masks: dict[str, int | Sequence[np.ndarray]] | None = None,
    good: tuple[int, int] = (3, 3),
    size: tuple[int, int] = (48, 40),
    mode: str = "L",
    suffix: str = ".png",
) -> Path:
    """Write ``root/name`` in MVTec layout; ``masks``: defect -> masks (H x W) or how many; ``good``: train, test."""
    folder = root / name
    for part, count in zip(("train", "test"), good, strict=True):
        (folder / part / "good").mkdir(parents=True, exist_ok=True)
        for index in range(count):
            save_noise(folder / part / "good" / f"{index:03d}{suffix}", size, mode)
    for defect, wanted in ({"crack": 5, "hole": 5} if masks is None else masks).items():
        given = [blobs(i, size) for i in range(wanted)] if isinstance(wanted, int) else wanted
        for index, mask in enumerate(given):
            extent = (mask.shape[1], mask.shape[0])
            save_noise(folder / "test" / defect / f"{index:03d}{suffix}", extent, mode)
            save_mask(folder / "ground_truth" / defect / f"{index:03d}_mask.png", mask)
    return folder


@pytest.fixture
def make_category(tmp_path: Path) -> Callable[..., Path]:
    """``make_category(name=..., masks=..., ...)`` writes a category under tmp_path/data and returns its folder."""
    return lambda **settings: write_category(tmp_path / "data", **settings)


@pytest.fixture(scope="session")
def screw() -> Path:
    """The real category that lies beside the repository."""
    if not (SCREW / "ground_truth").is_dir():
        pytest.skip(f"{SCREW} is not there")
    return SCREW


@pytest.fixture(scope="session")
def few_screws(screw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of every third image of each kind, for what takes long and needs no more."""
    few = tmp_path_factory.mktemp("few") / "screw"
    for folder in screw.glob("*/*/"):
        (few / folder.relative_to(screw)).mkdir(parents=True)
        for image in sorted(folder.iterdir())[::3]:
            shutil.copyfile(image, few / image.relative_to(screw))
    return few


@pytest.fixture(scope="session")
def screw_datasets(screw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of datasets that holds `screw` in all formats, converted once for all tests, which leave it as it is."""
    out = tmp_path_factory.mktemp("screw") / "out"
    converted("all", screw, out)
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium that tells its console; nothing is downloaded."""
    selenium = pytest.importorskip("selenium.webdriver")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("chromium-browser")
    if not driver or not chromium:
        pytest.skip("chromium and chromedriver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    flags = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-sync"
    for flag in (*flags.split(), "disable-component-update", "window-size=1280,900", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(driver))
    yield driver
    driver.quit()


def run_cli(*arguments: object) -> Result:
    """Run ``python -m converters ...`` in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def converted(command: str, folder: Path, out: Path, *arguments: object) -> Path:
    """Convert one category folder and return the format's parent, the dataset folder; fails unless exit code 0."""
    result = run_cli(command, "--root", folder, "--out", out, "--workers", 1, *arguments)
    assert result.exit_code == 0, result.output
    return out / folder.name


def without_tags(dataset: Path) -> Path:
    """The dataset, as an older conversion left it: its card does not tell the class of each image."""
    card = json.loads((dataset / "card.json").read_text("utf-8"))
    del card["tags"]
    (dataset / "card.json").write_text(json.dumps(card), "utf-8")
    return dataset


def run_process(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m converters ...`` as users do."""
    return subprocess.run(
        [sys.executable, "-m", "converters", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **({"cwd": REPOSITORY} | settings),
    )


def refusal(result: Result | subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command refused bad data; fails if it did anything else."""
    code = result.exit_code if isinstance(result, Result) else result.returncode
    assert code == 2, (code, result.stdout, result.stderr, getattr(result, "exception", None))
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def tree(folder: Path) -> dict[str, str]:
    """{relative path: SHA-256, or link target} of every file but staging's marker."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and path.name != MARKER
    }
