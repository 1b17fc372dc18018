"""MVTec AD's archives: fetched, checked by SHA-256, unpacked."""

import dataclasses
import hashlib
import http.client
import lzma
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import click
from filelock import FileLock, Timeout

from converters.cli import publishing as staging
from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from converters.sources.mvtec_facts import known_facts, missing_images
from converters.sources.reading import read_category

LICENCE = (
    "MVTec AD is licensed CC BY-NC-SA 4.0: share alike, name its authors, no commercial use.\n"
    "https://creativecommons.org/licenses/by-nc-sa/4.0/"
)
PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
PATIENCE, SLOWEST = 60.0, 1000  # give up on fewer bytes per second, on average over so many seconds
ATTEMPTS = 5
PAUSE = 2.0  # seconds before the second attempt; twice as many before each further one
UNPACKED_BYTES = 2  # of every byte of an archive: images don't compress, the official ones unpack to about as much
SLACK = 10_000_000  # bytes for headers


class TransferError(Exception):
    """A transfer that ended early; the next attempt continues from there."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """An official archive; ``size`` in bytes where it is known."""

    name: str
    url: str
    sha256: str
    size: int | None
    categories: tuple[str, ...]


def find_archive(category: str) -> Archive:
    """The archive that holds a category, or all of them; raises DatasetError for an unknown one."""
    whole, categories = known_facts()["archive"], known_facts()["categories"]
    if category == "all":
        return Archive("mvtec_ad", whole["url"], whole["sha256"], whole["bytes"], tuple(categories))
    if category not in categories:
        raise DatasetError(f"MVTec AD has no category {category!r}; it has {', '.join(categories)}, or all")
    known = categories[category]
    return Archive(category, known["url"], known["sha256"], known.get("bytes"), (category,))


def fetch(archive: Archive, url: str, target: Path) -> None:
    """Download to ``target`` and check it; what an earlier run left in ``target``.part is continued.

    Raises DatasetError if the address is wrong, the connection keeps breaking, or other bytes come than expected.
    """
    if not url.startswith(("http://", "https://")):
        raise DatasetError(f"{url}: not a web address; for a file on this machine use --archive FILE")
    part = target.with_name(f"{target.name}.part")
    click.echo(f"downloading {url}", err=True)
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            click.echo(f"{reason}: attempt {attempt + 1} of {ATTEMPTS}", err=True)
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            _transfer(url, part, archive)
            break
        except (TransferError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
    else:
        have = part.stat().st_size if part.exists() else 0
        raise DatasetError(f"{url}: {reason} after {have / 1e6:.1f} MB; run it again to continue from there")
    if wrong := fault(part, archive):
        part.unlink()
        raise DatasetError(f"{url}: what came {wrong} and was removed: try again, or another --url")
    part.rename(target)


def _transfer(url: str, part: Path, archive: Archive) -> None:
    """One connection; raises TransferError or OSError if it ends early."""
    have = part.stat().st_size if part.exists() else 0
    with _open(url, have) as response:
        if response is None:
            return  # nothing left to send
        resumed = response.status == http.client.PARTIAL_CONTENT
        left = int(response.headers.get("Content-Length") or 0)
        start = have if resumed else 0
        total = start + left if left else archive.size
        if archive.size and total and total > archive.size:
            raise DatasetError(f"{url}: sends {total} bytes, the archive has {archive.size}: is it the right address?")
        if total:
            staging.check_space(part.parent, total - start)
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file, start, total)


@contextmanager
def _open(url: str, have: int) -> Iterator[Any]:
    """The response to a request for the bytes from ``have`` on; None where there are none."""
    request = urllib.request.Request(url, headers={"User-Agent": "mvtec-finetune"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            yield response
    except urllib.error.URLError as error:
        code = getattr(error, "code", None)
        if code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            yield None
        elif code is None or code >= 500 or code == http.client.TOO_MANY_REQUESTS:
            raise TransferError(f"{code or 'no connection'} ({error.reason})") from None
        else:
            raise DatasetError(
                f"{url}: {code} ({error.reason}): the address may have moved. Look it up at {PAGE} and name it "
                "with --url, or download the archive by hand and name it with --archive FILE"
            ) from None


def _copy(response: Any, file: IO[bytes], start: int, total: int | None) -> None:
    """Write what comes; raises TransferError if it ends early or comes too slowly."""
    received, since, at = start, time.monotonic(), start
    with progress(None, total or 1, "downloading") as bar:
        bar.update(start)
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
            if time.monotonic() - since > PATIENCE:
                if received - at < SLOWEST * PATIENCE:
                    raise TransferError(f"fewer than {SLOWEST} bytes per second")
                since, at = time.monotonic(), received
    if total and received < total:
        raise TransferError(f"the connection was cut, {(total - received) / 1e6:.1f} MB are missing")


def fault(path: Path, archive: Archive) -> str:
    """What tells a file from the archive, by its SHA-256; nothing where it is the archive."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    same = found == archive.sha256
    return "" if same else f"is not the official {archive.name}.tar.xz (SHA-256 {found[:12]}...)"


class _Bounded:
    """A stream that yields no more than ``limit`` bytes: an archive's headers and files together."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream, self.left = stream, limit

    def read(self, size: int) -> bytes:
        data = self.stream.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise DatasetError("unpacks to far more than images do")
        return data


def unpack(path: Path, archive: Archive, to: Path, overwrite: bool) -> None:
    """Unpack the archive's categories into ``to``; all are counted before any is published.

    Raises DatasetError for an archive that is damaged, holds anything but plain files in the folders of its
    categories, unpacks to far more than it should, or lacks images. Nothing is published then.
    """
    limit = UNPACKED_BYTES * path.stat().st_size + SLACK
    staging.check_space(to, limit - SLACK)
    with ExitStack() as stack:
        published = {name: stack.enter_context(staging.publish(to / name, overwrite)) for name in archive.categories}
        try:
            with lzma.open(path) as stream:
                bounded: Any = _Bounded(stream, limit)
                with tarfile.open(fileobj=bounded, mode="r|") as tar:
                    for member in tar:
                        _extract(tar, member, published)
        except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
            raise DatasetError(f"{path}: is damaged ({error}): download it again") from None
        except DatasetError as error:
            raise DatasetError(f"{path}: {error.message}: do not trust this archive") from None
        for name, folder in published.items():
            _count(folder, name)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, published: dict[str, Path]) -> None:
    """Write one plain file; folders come with their files, and files beside the categories are left out."""
    parts = PurePosixPath(member.name).parts
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) and not member.issparse()
    if not plain or member.name.startswith("/") or ".." in parts or "\\" in member.name or "\0" in member.name:
        raise DatasetError(f"its member {member.name!a} is a link, a device or another special file, or leads outside")
    if member.isfile() and len(parts) > 1 and parts[0] in published:
        tar.extract(member.replace(name="/".join(parts[1:])), published[parts[0]], filter="data")


def _count(folder: Path, name: str) -> None:
    category = dataclasses.replace(read_category(folder, layout="mvtec"), name=name)
    lacking = [*missing_images(category), *map(str, category.problems)]
    if lacking:
        raise DatasetError(f"{name}: {lacking[0]}; {len(lacking)} problems in all, nothing was published")
    click.echo(f"{name}: {len(category.samples)} images, complete")


def _accept_licence(accepted: bool) -> None:
    click.echo(LICENCE, err=True)
    try:
        if accepted or click.confirm("Do you accept this licence?", err=True):
            return
    except click.Abort:
        pass  # nobody there to ask
    raise DatasetError("the licence has to be accepted: add --accept-licence")


def download(
    category: str, to: Path, url: str | None, file: Path | None, accept_licence: bool, overwrite: bool
) -> None:
    """Fetch, check and unpack what is asked for."""
    if url and file:
        raise DatasetError("--url and --archive exclude each other: leave one of them out")
    archive = find_archive(category)
    present = [name for name in archive.categories if (to / name).exists()]
    if present and not overwrite:
        raise DatasetError(f"{to / present[0]} exists: add --overwrite to replace it, or choose another --to")
    _accept_licence(accept_licence)
    to.mkdir(parents=True, exist_ok=True)
    path = file or to / f"{archive.name}.tar.xz"
    try:
        with FileLock(to / f".{path.name}.lock", timeout=0):
            _ensure(path, archive, url, given=file is not None)
            unpack(path, archive, to, overwrite)
    except Timeout:
        raise DatasetError(f"{path} is being downloaded by another run: wait for it") from None
    click.echo(f"wrote {len(archive.categories)} categories to {to}; the archive is {path}")


def _ensure(path: Path, archive: Archive, url: str | None, given: bool) -> None:
    """Have the archive at ``path``, checked; raises DatasetError where that fails."""
    if not path.exists() and not given:
        fetch(archive, url or archive.url, path)
        return
    if wrong := fault(path, archive):
        advice = "name another file" if given else "delete it to download it again"
        raise DatasetError(f"{path} {wrong}: {advice}")
