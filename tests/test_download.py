"""Downloading: against a server on this machine that does what servers do, and archives that nobody should trust."""

import hashlib
import io
import json
import lzma
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import run_cli, tree, write_category

from converters.importing import archives
from converters.sources import mvtec_facts
from converters.sources.reading import read_category

CATEGORY = "zipper"
DEFECTS = {"rough": 3, "split_teeth": 2}


@dataclass
class Behaviour:
    """How the server answers, and what it was asked."""

    data: bytes = b""
    status: int = 200
    ranges: bool = True
    length: bool = True
    cut_after: int = 0  # bytes of a response before the connection is closed; 0 for never
    cuts: int = 0  # how many responses are cut
    pause: float = 0.0  # seconds after each kilobyte
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        how: Behaviour = self.server.behaviour
        self.close_connection = True
        wanted = self.headers.get("Range", "")
        how.asked.append(wanted)
        if how.status != 200:
            self.send_error(how.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and how.ranges else 0
        if start >= len(how.data) > 0:
            self.send_error(416)
            return
        body = how.data[start:]
        self.send_response(206 if start else 200)
        if how.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how.cuts:
            how.cuts -= 1
            body = body[: how.cut_after]
        for at in range(0, len(body), 1024):
            self.wfile.write(body[at : at + 1024])
            time.sleep(how.pause)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *arguments: object) -> None:
        """Clients that hang up are what these tests are about."""


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    httpd = Server(("127.0.0.1", 0), Handler)
    httpd.behaviour = Behaviour()
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/zipper.tar.xz", httpd.behaviour
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def pack(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar.xz of files, in order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an official archive of a small zipper would hold."""
    folder = write_category(tmp_path_factory.mktemp("source"), CATEGORY, masks=DEFECTS, good=(4, 3))
    found = {f"{CATEGORY}/{p.relative_to(folder)}": p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {"license.txt": b"beside the category", f"{CATEGORY}/license.txt": b"CC BY-NC-SA 4.0"} | found


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, server: tuple[str, Behaviour]) -> Callable[..., bytes]:
    """``publish(data)`` makes data the official archive of the small zipper, and the server send it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(archives, "PAUSE", 0.01)

    def make(data: bytes, known_size: bool = False) -> bytes:
        size = {"bytes": len(data)} if known_size else {}
        archive = {"url": server[0], "sha256": hashlib.sha256(data).hexdigest(), **size}
        facts = {"train_good": 4, "test_good": 3, "defects": DEFECTS, "regions": 10, "side_px": 48, **archive}
        known = {"archive": archive | {"bytes": len(data)}, "categories": {CATEGORY: facts}}
        monkeypatch.setattr(mvtec_facts, "known_facts", lambda: known)
        monkeypatch.setattr(archives, "known_facts", lambda: known)
        server[1].data = data
        return data

    return make


def run(to: Path, *arguments: object, category: str = CATEGORY, accept: bool = True) -> Result:
    accepted = ["--accept-licence"] if accept else []
    return run_cli("download", "--category", category, "--to", to, *accepted, *arguments)


def refused(result: Result, to: Path) -> str:
    """The error line of a run that published nothing and left only what the next run needs."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert not (to / CATEGORY).exists()
    left = [path.name for path in to.iterdir() if path.suffix != ".lock"] if to.exists() else []
    assert set(left) <= {"zipper.tar.xz", "zipper.tar.xz.part"}, left
    return result.stderr.splitlines()[-1]


# ---------------------------------------------------------------- the way it should go


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("known_size", [True, False])
def test_a_category_is_downloaded_checked_counted_and_usable(
    publish: Any, server: Any, files: Any, tmp_path: Path, length: bool, known_size: bool
) -> None:
    publish(pack(files), known_size)
    server[1].length = length
    result = run(tmp_path / "to")
    assert result.exit_code == 0, result.output
    assert "zipper: 12 images, complete" in result.stdout and "CC BY-NC-SA" in result.stderr
    expected = {name.split("/", 1)[1]: hashlib.sha256(data).hexdigest() for name, data in files.items() if "/" in name}
    assert tree(tmp_path / "to" / CATEGORY) == expected
    converted = run_cli("to_yolo", "--root", tmp_path / "to", "--out", tmp_path / "out")
    assert converted.exit_code == 0, converted.output


def test_all_is_one_archive(publish: Any, files: Any, tmp_path: Path) -> None:
    publish(pack(files))
    result = run(tmp_path / "to", category="all")
    assert result.exit_code == 0, result.output
    assert read_category(tmp_path / "to" / CATEGORY).problems == []
    assert (tmp_path / "to" / "mvtec_ad.tar.xz").exists()


def test_an_archive_that_is_there_is_checked_and_not_downloaded(
    publish: Any, server: Any, files: Any, tmp_path: Path
) -> None:
    data = publish(pack(files))
    (tmp_path / "zipper.tar.xz").write_bytes(data)
    assert run(tmp_path).exit_code == 0 and server[1].asked == []
    (tmp_path / "zipper.tar.xz").write_bytes(data[:-1] + b"?")
    result = run(tmp_path, "--overwrite")
    assert result.exit_code == 2 and "is not the official zipper.tar.xz" in result.stderr
    assert "delete it" in result.stderr and (tmp_path / CATEGORY).is_dir()


def test_a_file_of_the_users_is_checked_and_kept(publish: Any, server: Any, files: Any, tmp_path: Path) -> None:
    data = publish(pack(files))
    mine = tmp_path / "mine.tar.xz"
    mine.write_bytes(data)
    assert run(tmp_path / "to", "--archive", mine).exit_code == 0
    assert mine.read_bytes() == data and server[1].asked == []
    mine.write_bytes(data[:-1])
    assert "name another file" in run(tmp_path / "other", "--archive", mine).stderr
    assert "No such file" in refused(run(tmp_path / "third", "--archive", tmp_path / "none"), tmp_path / "third")


def test_what_exists_is_replaced_only_on_demand(publish: Any, server: Any, files: Any, tmp_path: Path) -> None:
    publish(pack(files))
    (tmp_path / CATEGORY).mkdir()
    result = run(tmp_path)
    assert result.exit_code == 2 and "--overwrite" in result.stderr and server[1].asked == []
    assert run(tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / CATEGORY / "train").is_dir()


# ---------------------------------------------------------------- the licence


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2), ("", 2)])
def test_the_licence_is_asked_for(
    publish: Any, files: Any, tmp_path: Path, answer: str, code: int, server: Any
) -> None:
    from click.testing import CliRunner

    from converters.download import main

    publish(pack(files))
    result = CliRunner().invoke(main, ["--category", CATEGORY, "--to", str(tmp_path)], input=answer)
    assert result.exit_code == code, result.output
    assert "CC BY-NC-SA 4.0" in result.stderr and (code == 0 or "--accept-licence" in result.stderr)
    assert (server[1].asked == []) == (code == 2)


# ---------------------------------------------------------------- connections


def test_a_cut_connection_goes_on_by_itself(publish: Any, server: Any, files: Any, tmp_path: Path) -> None:
    data = publish(pack(files))
    server[1].cut_after, server[1].cuts = len(data) // 3, 2
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    third = len(data) // 3
    assert server[1].asked == ["", f"bytes={third}-", f"bytes={2 * third}-"]


def test_the_next_run_goes_on_where_this_one_gave_up(publish: Any, server: Any, files: Any, tmp_path: Path) -> None:
    data = publish(pack(files))
    server[1].cut_after, server[1].cuts = 500, 5
    line = refused(run(tmp_path), tmp_path)
    assert "cut" in line and "run it again" in line
    assert (tmp_path / "zipper.tar.xz.part").read_bytes() == data[:2500]
    assert run(tmp_path).exit_code == 0
    assert server[1].asked[-1] == "bytes=2500-"


def test_without_ranges_it_starts_again(publish: Any, server: Any, files: Any, tmp_path: Path) -> None:
    publish(pack(files))
    server[1].cut_after, server[1].cuts, server[1].ranges = 700, 1, False
    assert run(tmp_path).exit_code == 0
    assert server[1].asked == ["", "bytes=700-"]


def test_a_finished_part_needs_no_more_bytes(publish: Any, files: Any, tmp_path: Path) -> None:
    (tmp_path / "zipper.tar.xz.part").write_bytes(publish(pack(files)))
    assert run(tmp_path).exit_code == 0


@pytest.mark.parametrize("known_size", [True, False])
def test_wrong_bytes_are_removed(publish: Any, server: Any, files: Any, tmp_path: Path, known_size: bool) -> None:
    data = publish(pack(files), known_size)
    server[1].data = b"<html>" * (len(data) // 6)
    line = refused(run(tmp_path), tmp_path)
    assert "another --url" in line and not (tmp_path / "zipper.tar.xz.part").exists()
    server[1].data = data
    assert run(tmp_path).exit_code == 0


def test_more_bytes_than_the_archive_has_are_not_even_fetched(
    publish: Any, server: Any, files: Any, tmp_path: Path
) -> None:
    data = publish(pack(files), True)
    server[1].data = data + b"!"
    assert "is it the right address?" in refused(run(tmp_path), tmp_path)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_moved_address_says_what_to_do(publish: Any, server: Any, files: Any, tmp_path: Path, status: int) -> None:
    publish(pack(files))
    server[1].status = status
    line = refused(run(tmp_path), tmp_path)
    assert str(status) in line and "--url" in line and "--archive" in line and "mvtec.com" in line
    assert len(server[1].asked) == 1


def test_a_busy_server_is_asked_again(publish: Any, server: Any, files: Any, tmp_path: Path) -> None:
    publish(pack(files))
    server[1].status = 503
    assert "503" in refused(run(tmp_path), tmp_path)
    assert len(server[1].asked) == archives.ATTEMPTS


def test_a_slow_server_is_given_up(
    publish: Any, server: Any, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "PATIENCE", 0.05)
    monkeypatch.setattr(archives, "SLOWEST", 10**6)
    monkeypatch.setattr(archives, "ATTEMPTS", 2)
    publish(pack(files))
    server[1].pause = 0.1
    started = time.monotonic()
    assert "fewer than 1000000 bytes per second" in refused(run(tmp_path), tmp_path)
    assert time.monotonic() - started < 10


def test_a_silent_server_is_given_up(
    publish: Any, server: Any, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "TIMEOUT", 0.1)
    monkeypatch.setattr(archives, "ATTEMPTS", 2)
    publish(pack(files))
    server[1].pause = 0.5
    assert "timed out" in refused(run(tmp_path), tmp_path)


def test_another_address_may_be_named(publish: Any, server: Any, files: Any, tmp_path: Path) -> None:
    publish(pack(files))
    assert run(tmp_path, "--url", server[0].replace("zipper", "mirror")).exit_code == 0
    assert "not a web address" in run(tmp_path / "b", "--url", f"file://{tmp_path}/zipper.tar.xz").stderr
    assert run(tmp_path / "c", "--url", "http://x", "--archive", "y").exit_code == 2


def test_no_network_is_one_line(publish: Any, files: Any, tmp_path: Path) -> None:
    publish(pack(files))
    assert "no connection" in refused(run(tmp_path, "--url", "http://127.0.0.1:9/x"), tmp_path)


@pytest.mark.parametrize("category", ["bulb", "..", "", "zipper/../x"])
def test_an_unknown_category_is_refused_with_the_known_ones(category: str, tmp_path: Path) -> None:
    result = run(tmp_path / "to", category=category)
    assert result.exit_code == 2 and repr(category) in result.stderr and "zipper" in result.stderr
    assert not (tmp_path / "to").exists()


# ---------------------------------------------------------------- archives


def special(name: str, kind: bytes, target: str = "") -> dict[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return {name: info}


HOSTILE: dict[str, dict[str, Any]] = {
    "absolute": {"/tmp/evil.png": b"x"},
    "parent": {"zipper/../../evil.png": b"x"},
    "parent at the start": {"../evil.png": b"x"},
    "backslashes": {"zipper\\..\\..\\evil.png": b"x"},
    "symbolic link": special("zipper/train/link", tarfile.SYMTYPE, "/etc"),
    "symbolic link inside": special("zipper/train/link", tarfile.SYMTYPE, "good"),
    "link and a file behind it": special("zipper/out", tarfile.SYMTYPE, "/tmp") | {"zipper/out/evil.png": b"x"},
    "hard link": special("zipper/train/link", tarfile.LNKTYPE, "zipper/license.txt"),
    "character device": special("zipper/null", tarfile.CHRTYPE),
    "block device": special("zipper/disk", tarfile.BLKTYPE),
    "pipe": special("zipper/pipe", tarfile.FIFOTYPE),
    "link outside the category": special("other/link", tarfile.SYMTYPE, "/etc"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_refused_by_name(publish: Any, files: Any, tmp_path: Path, name: str) -> None:
    """Even if the checksum were that of such an archive."""
    publish(pack(files | HOSTILE[name]))
    before = set(tmp_path.parent.iterdir())
    line = refused(run(tmp_path / "to"), tmp_path / "to")
    assert repr(next(iter(HOSTILE[name]))) in line and "do not trust" in line
    assert set(tmp_path.parent.iterdir()) == before and not Path("/tmp/evil.png").exists()


@pytest.mark.parametrize(
    "members",
    [{"zipper/bomb.png": bytes(3_000_000)}, {f"zipper/{n}": b"" for n in range(3000)}],
    ids=["one large file", "many empty files"],
)
def test_a_bomb_is_stopped(
    publish: Any, files: Any, tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "SLACK", 1_000_000)
    data = publish(pack(files | members))
    assert len(data) < 100_000
    assert "unpacks to far more" in refused(run(tmp_path), tmp_path)


def test_headers_may_be_bombs_too(publish: Any, files: Any, tmp_path: Path) -> None:
    info = tarfile.TarInfo("zipper/x")
    info.pax_headers = {"comment": "0" * 12_000_000}
    publish(pack(files | {"x": info}))
    assert "unpacks to far more" in refused(run(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"no archive", lambda data: lzma.compress(b"text" * 1000)],
    ids=["cut", "text", "no tar inside"],
)
def test_a_damaged_archive_is_refused(publish: Any, files: Any, tmp_path: Path, damage: Any) -> None:
    publish(damage(pack(files)))
    assert "is damaged" in refused(run(tmp_path), tmp_path)


def test_missing_images_are_counted_before_anything_is_published(publish: Any, files: Any, tmp_path: Path) -> None:
    publish(pack({name: data for name, data in files.items() if not name.endswith("train/good/001.png")}))
    assert "zipper/train/good: 3 of 4 images" in refused(run(tmp_path), tmp_path)


def test_the_data_file_knows_every_archive() -> None:
    """A size where it is known, and a SHA-256 everywhere."""
    facts = json.loads((Path(mvtec_facts.__file__).with_suffix(".json")).read_text())
    names = ["all", *facts["categories"]]
    assert len(names) == 16
    for name in names:
        archive = archives.find_archive(name)
        assert archive.url.startswith("https://") and len(archive.sha256) == 64
