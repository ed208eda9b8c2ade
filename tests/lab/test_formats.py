from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch

from layerpace.lab.errors import LabError
from layerpace.lab.formats import parse_cifar, parse_idx, read_bytes

HERE = Path("some-file")
IMAGES = bytes(range(24))


def idx(shape: tuple[int, ...], data: bytes, magic: bytes | None = None) -> bytes:
    return (magic or bytes([0, 0, 8, len(shape)])) + struct.pack(f">{len(shape)}I", *shape) + data


def test_idx_holds_the_bytes_in_order() -> None:
    images = parse_idx(idx((2, 3, 4), IMAGES), 3, HERE)
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4))


def test_idx_may_be_empty() -> None:
    assert parse_idx(idx((0, 3, 4), b""), 3, HERE).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\0\0\x08", "too short"),
        (idx((2, 3, 4), IMAGES, magic=b"\0\0\x0d\x03"), "starts with 00000d03"),
        (idx((24,), IMAGES), "starts with 00000801"),
        (idx((2, 3, 4), IMAGES[:-1]), "truncated: 23 bytes of data where its header says 24"),
        (idx((2, 3, 4), IMAGES + b"x"), "too long: 25"),
        (b"<!DOCTYPE html><html><body>moved</body>", "not an IDX file"),
    ],
)
def test_a_damaged_idx_file_is_named_with_its_fault(content: bytes, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint) as error:
        parse_idx(content, 3, HERE)
    assert str(HERE) in str(error.value)


def test_gzip_is_told_by_content_and_a_truncated_one_is_an_error(tmp_path: Path) -> None:
    plain, packed, cut = tmp_path / "plain", tmp_path / "no-gz-suffix", tmp_path / "cut.gz"
    plain.write_bytes(IMAGES)
    packed.write_bytes(gzip.compress(IMAGES))
    cut.write_bytes(gzip.compress(bytes(10_000))[:-9])
    assert read_bytes(plain) == read_bytes(packed) == IMAGES
    with pytest.raises(LabError, match="damaged or truncated gzip"):
        read_bytes(cut)


@pytest.mark.parametrize(("label_bytes", "classes"), [(1, 10), (2, 100)])
def test_cifar_records(label_bytes: int, classes: int) -> None:
    labels, pixels = torch.tensor([[3], [9]]), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    coarse = torch.full((2, label_bytes - 1), 19, dtype=torch.uint8)  # CIFAR-100's, which does not count
    table = torch.cat([coarse, labels.to(torch.uint8), pixels.reshape(2, -1)], dim=1)
    images, found = parse_cifar(bytes(table.flatten().tolist()), label_bytes, classes, HERE)
    assert torch.equal(images, pixels)
    assert found.tolist() == [3, 9]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(bytes(3072), "not a whole number of 3073-byte records"), (b"", "0 bytes"), (b"\x0a" + bytes(3072), "label 10")],
)
def test_a_damaged_cifar_file(content: bytes, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        parse_cifar(content, 1, 10, HERE)
