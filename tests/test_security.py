"""What a file from somewhere else cannot do: run code, reach outside, or take all memory."""

import ast
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, refusal, run_cli, save_noise
from PIL import Image

from converters.sources.reading import read_category
from converters.sources.samples import FORMATS

SOURCES = sorted(path for room in ("converters", "finetune") for path in (REPOSITORY / room).rglob("*.py"))
RUNS_CODE = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
PARSES_XML = {"parse", "fromstring", "iterparse", "XMLParser", "XML"}
MOST_MEMORY = 400_000_000  # bytes


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(module: ast.Module) -> Iterator[tuple[str, str]]:
    """(function as written, the whole call)."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_source_file_loads_what_could_run_code(path: Path) -> None:
    module = ast.parse(path.read_text("utf-8"))
    names = list(imported(module))
    assert not [name for name in names if name.split(".")[0] in RUNS_CODE]
    assert not [n for n in names if n.startswith("xml.etree") and n.rsplit(".", 1)[1] in PARSES_XML]
    for name, call in calls(module):
        assert name not in ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load", "yaml.full_load"), call
        assert "allow_pickle=True" not in call and "shell=True" not in call
        if name == "torch.load":
            assert "weights_only=True" in call, call
        if name.rsplit(".", 1)[-1] in PARSES_XML and "defusedxml" not in path.read_text("utf-8"):
            assert not name.startswith(("ET.", "ElementTree.", "xml.")), call


def png(width: int, height: int, *, mode: str = "1") -> bytes:
    """A whole PNG of zeros in a few hundred kilobytes, however large the image."""
    bits, colour = {"1": (1, 0), "L": (8, 0), "RGB": (8, 2), "P": (8, 3)}[mode]
    row = 1 + (width * bits * (3 if mode == "RGB" else 1) + 7) // 8
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(row * 64)) for _ in range(height // 64)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    chunks += [(b"PLTE", bytes(768))] if mode == "P" else []
    chunks += [(b"IDAT", data), (b"IEND", b"")]
    body = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def peak_memory(*arguments: object) -> tuple[int, str]:
    """Bytes that a run took at most, and what it printed (getrusage would count what this process took)."""
    code = (
        "import sys; from converters.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('PEAK', open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert "Traceback" not in done.stderr, done.stderr
    return 1024 * int(done.stdout.rsplit("PEAK ", 1)[1]), done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_a_mask_that_unpacks_to_gigabytes_is_refused_before(
    make_category: Callable[..., Path], tmp_path: Path, mode: str
) -> None:
    """--max-pixels bounds masks too: they must be as large as their image, which is known before they are decoded."""
    folder = make_category()
    bomb = png(65536, 32768 if mode == "1" else 8192, mode=mode)
    assert len(bomb) < 8_000_000
    (folder / "ground_truth" / "crack" / "000_mask.png").write_bytes(bomb)
    peak, said = peak_memory("all", "--root", folder, "--out", tmp_path / "out", "--workers", 1)
    assert "its image 48 x 40" in said and peak < MOST_MEMORY


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image_that_unpacks_to_gigabytes_is_refused_before(
    make_category: Callable[..., Path], tmp_path: Path, mode: str
) -> None:
    folder = make_category()
    (folder / "test" / "crack" / "000.png").write_bytes(png(32768, 16384 if mode == "L" else 8192, mode=mode))
    peak, said = peak_memory("to_coco", "--root", folder, "--out", tmp_path / "out", "--workers", 1)
    assert "more than --max-pixels 256000000" in said and peak < MOST_MEMORY


def test_masks_of_several_files_are_bounded_each(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    for part in ("train", "validation", "test"):
        save_noise(folder / part / "good" / "000.png")
    save_noise(folder / "test" / "logical_anomalies" / "000.png")
    masks = folder / "ground_truth" / "logical_anomalies" / "000"
    masks.mkdir(parents=True)
    (masks / "000.png").write_bytes(png(65536, 32768))
    (problem,) = read_category(folder).problems
    assert "is 65536 x 32768 px, its image 48 x 40" in str(problem)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "WEBP", "PPM", "PDF", "ICO"])
def test_other_decoders_are_never_reached(make_category: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    """Pillow would start Ghostscript for an EPS, whatever its name says."""
    folder = make_category()
    mask = folder / "ground_truth" / "crack" / "000_mask.png"
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(mask, kind)
    assert kind not in FORMATS
    assert "is no image that can be read" in refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out"))


@pytest.mark.parametrize("category", ["..", "../x", "/etc", "a/../../b", "~", "."])
def test_no_category_name_leads_out_of_its_root(
    make_category: Callable[..., Path], tmp_path: Path, category: str
) -> None:
    make_category(name="a")
    make_category(name="b")
    line = refusal(run_cli("to_yolo", "--root", tmp_path / "data", "--category", category, "--out", tmp_path / "out"))
    assert "has no category" in line and not (tmp_path / "out").exists()


def test_published_xml_and_yaml_are_read_by_safe_parsers(make_category: Callable[..., Path], tmp_path: Path) -> None:
    """verify reads what may have come from elsewhere: entities are not expanded, tags make no objects."""
    folder = make_category()
    assert run_cli("all", "--root", folder, "--out", tmp_path / "out", "--workers", 1).exit_code == 0
    dataset = tmp_path / "out" / "widget"
    xml = next((dataset / "voc" / "Annotations").glob("test__crack*.xml"))
    entities = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'
    xml.write_text(entities + xml.read_text().replace("crack", "&b;"))
    (dataset / "yolo" / "data.yaml").write_text("names: !!python/object/apply:os.mkdir ['made']")
    result = run_cli("verify", dataset)
    assert result.exit_code in (1, 2) and "root:" not in result.output and not Path("made").exists()
    (dataset / "yolo" / "data.yaml").unlink()
