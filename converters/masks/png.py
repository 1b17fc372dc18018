"""PNG files for class and instance masks, which are empty but for a few rows.

A general encoder spends its time on the empty rows: three 1024 x 1024 masks an image cost five times as much as
reading the source mask. Here empty rows are deflated once and reused, and only the others are packed. The
format is PNG's (ISO/IEC 15948) and zlib's (RFC 1950, RFC 1951); any reader reads it.
"""

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GREY, _PALETTE = 0, 3  # PNG colour types
_ADLER = 65521
_LAST_BLOCK = b"\x03\x00"  # an empty deflate block that ends the stream


@cache
def voc_palette(colours: int) -> NDArray[np.uint8]:
    """The PASCAL VOC colour map, N x 3 RGB: index 0 is black, 1 dark red, 2 dark green, ..."""
    index = np.arange(colours)
    palette = np.zeros((colours, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def index_png(rows: NDArray[np.uint8], top: int, height: int, colours: int) -> bytes:
    """Encode indices below ``colours`` as a palette PNG with as few bits per pixel as they need.

    ``rows`` (h x W) are the image's rows from ``top`` on; above and below, up to ``height``, it is 0.
    """
    bits = next(bits for bits in (1, 2, 4, 8) if colours <= 1 << bits)
    return _encode(rows, top, height, bits, _PALETTE, _chunk(b"PLTE", voc_palette(colours).tobytes()))


def id_png(rows: NDArray[np.uint16], top: int, height: int) -> bytes:
    """Encode instance ids as a 16-bit grey PNG; ``rows``, ``top`` and ``height`` as in ``index_png``."""
    return _encode(rows, top, height, 16, _GREY, b"")


def _encode(rows: NDArray[Any], top: int, height: int, bits: int, colour: int, palette: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", rows.shape[1], height, bits, colour, 0, 0, 0)
    data = _chunk(b"IDAT", _deflate(rows, top, height, bits))
    return b"".join([b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header), palette, data, _chunk(b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))])


def _deflate(rows: NDArray[Any], top: int, height: int, bits: int) -> bytes:
    """A zlib stream of all rows, each with its filter byte (0: none)."""
    stride = 1 + (rows.shape[1] * bits + 7) // 8
    lines = np.zeros((len(rows), stride), np.uint8)
    lines[:, 1:] = _pack(rows, bits)
    body = lines.tobytes()
    above, below = top * stride, (height - top - len(rows)) * stride
    checksum = _adler_of_zeros(zlib.adler32(body, _adler_of_zeros(1, above)), below)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"".join([b"\x78\x01", *_zeros(above), packed, *_zeros(below), _LAST_BLOCK, struct.pack(">I", checksum)])


def _pack(rows: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """H x bytes: 16-bit values in big-endian order, or several small values in one byte, leftmost highest."""
    if bits == 16:
        return rows.astype(">u2").view(np.uint8)
    each = 8 // bits
    padded = np.zeros((len(rows), -(-rows.shape[1] // each) * each), np.uint8)
    padded[:, : rows.shape[1]] = rows
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return np.bitwise_or.reduce(padded.reshape(len(rows), padded.shape[1] // each, each) << shifts, axis=2)


def _adler_of_zeros(adler: int, count: int) -> int:
    """Adler-32 after ``count`` more zero bytes."""
    low, high = adler & 0xFFFF, adler >> 16
    return (high + count * low) % _ADLER << 16 | low


def _zeros(count: int) -> Iterator[bytes]:
    """Deflate blocks for ``count`` zero bytes, from blocks for powers of two."""
    return (_zero_block(power) for power in range(count.bit_length()) if count >> power & 1)


@cache
def _zero_block(power: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(1 << power)) + packer.flush(zlib.Z_FULL_FLUSH)
