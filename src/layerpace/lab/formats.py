"""Readers of the official binary files: IDX (MNIST, Fashion-MNIST) and CIFAR's records.

Both layouts are a few header bytes and then plain uint8, so a file is checked in full before it is
used: the magic number, the counts, and the exact size. A damaged file is a `LabError`, not an array.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .errors import LabError

IDX_UINT8 = 0x08
MOST = 1 << 28  # bytes of a file's content; CIFAR-100's training file, the largest, has 153,700,000
CIFAR_PIXELS = 3 * 32 * 32


def read_bytes(path: Path) -> bytes:
    """The content of a plain or gzip file; a gzip file is told by its first two bytes, not its name.

    Raises:
        LabError: a damaged gzip file, or more content than any file of these data sets has.
    """
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            content = (gzip.GzipFile(fileobj=raw) if packed else raw).read(MOST + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise LabError(f"{path}: damaged or truncated gzip file ({error}); delete it and fetch it again") from None
    if len(content) > MOST:
        raise LabError(
            f"{path}: {'expands to' if packed else 'has'} more than {MOST:,} bytes, which no file of these data sets "
            "does; delete it and fetch it again"
        )
    return content


def read_text(path: Path, encoding: str = "utf-8", what: str = "text") -> str:
    """The content of a text file of a data set; ``what`` is what an error calls it.

    Raises:
        LabError: it cannot be read, is no such text, or longer than any of them.
    """
    try:
        return read_bytes(path).decode(encoding)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LabError(f"{path}: not a {what} in {encoding}") from None


def uint8_tensor(content: bytes, offset: int = 0) -> Tensor:
    """The bytes from `offset` on, as a uint8 tensor that owns its memory."""
    if offset >= len(content):
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=offset)


def parse_idx(content: bytes, dimensions: int, source: Path) -> Tensor:
    """uint8 tensor of an IDX file: 2 zero bytes, a type byte, the number of dimensions, big-endian sizes."""
    if len(content) < 4 + 4 * dimensions:
        raise LabError(f"{source}: {len(content)} bytes, too short for an IDX file; delete it and fetch it again")
    expected = bytes([0, 0, IDX_UINT8, dimensions])
    if content[:4] != expected:
        raise LabError(
            f"{source}: starts with {content[:4].hex()}, not {expected.hex()}: not an IDX file of "
            f"{dimensions}-dimensional uint8"
        )
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    offset = 4 + 4 * dimensions
    size, wanted = len(content) - offset, math.prod(shape)
    if size != wanted:
        state = "truncated" if size < wanted else "too long"
        raise LabError(f"{source}: {state}: {size} bytes of data where its header says {wanted} (shape {shape})")
    return uint8_tensor(content, offset).reshape(shape)


def parse_cifar(content: bytes, label_bytes: int, classes: int, source: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of a CIFAR binary file.

    A record is `label_bytes` labels (CIFAR-100: coarse, then fine; the last one counts) and 3072
    pixels, channel by channel.
    """
    record = label_bytes + CIFAR_PIXELS
    if not content or len(content) % record:
        raise LabError(
            f"{source}: {len(content)} bytes is not a whole number of {record}-byte records: "
            "truncated, or not CIFAR's binary layout"
        )
    table = uint8_tensor(content).reshape(-1, record)
    labels = table[:, label_bytes - 1].long()
    check_labels(labels, classes, source)
    return table[:, label_bytes:].reshape(-1, 3, 32, 32).contiguous(), labels


def check_labels(labels: Tensor, classes: int, source: Path) -> None:
    highest = int(labels.max()) if labels.numel() else 0
    if highest >= classes:
        raise LabError(f"{source}: label {highest}, but there are {classes} classes (0 to {classes - 1})")
