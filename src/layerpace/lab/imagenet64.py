"""Downsampled ImageNet (Chrabaszcz et al. 2017) at 64x64: train_data_batch_1 ... 10 and val_data.

Each file is an .npz, or a pickled dict (the older form), with `data` uint8 [N, 12288], channel by channel, and
`labels`, 1 to 1000. Pickles can run code, so they are not unpickled, but read by `pickled`; an .npz is preferred where
both are there.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import pickled
from .dataset import Dataset, pixel_scale
from .errors import LabError, one_line
from .extras import require

CLASSES = 1000
SIDE = 64
PIXELS = 3 * SIDE * SIDE
MOST = 200_000  # images of a file; those that are published have up to 128,117
SMALL, FOLD = 1 << 26, 20  # bytes that may be much compressed, and how much larger ones may be: photographs are not
TRAIN = tuple(f"train_data_batch_{k}" for k in range(1, 11))
TEST = "val_data"
BATCHES = (*TRAIN, TEST)


def read_imagenet64(folder: Path) -> Dataset:
    """All batches; labels become 0 to 999. One mean and one standard deviation, of all training pixels.

    Each file is opened twice, for its labels and for its images, which go to their place one file at a time: the
    15.7 GB of the training images are in memory once, and with them one file.

    Raises:
        LabError: a file that is absent, damaged, or holds something else.
    """
    require(["numpy"], "reading ImageNet")
    train, train_labels = read_parts([part(folder, name) for name in TRAIN])
    test, test_labels = read_parts([part(folder, TEST)])
    mean, std = pixel_scale(train)
    return Dataset(train, train_labels, test, test_labels, CLASSES, mean=mean, std=std)


def part(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.npz", folder / name):
        if path.is_file():
            return path
    raise LabError(f"{folder} holds neither {name}.npz nor {name}")


def read_parts(paths: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 64, 64] and labels int64 [N], from 0, of the files in order."""
    labels = [labels_of(path) for path in paths]
    images = torch.empty(sum(map(len, labels)), PIXELS, dtype=torch.uint8, device="cpu")
    start = 0
    for path, part_labels in zip(paths, labels, strict=True):
        data = entry(path, "data")
        wanted = (len(part_labels), PIXELS)
        if getattr(data, "dtype", None) != "uint8" or data.shape != wanted:
            raise LabError(f"{path}: data is {described(data)}, not uint8 {wanted} as its labels say")
        images[start : start + len(data)] = torch.from_numpy(data)
        start += len(data)
    return images.reshape(-1, 3, SIDE, SIDE), torch.cat(labels)


def labels_of(path: Path) -> Tensor:
    import numpy as np

    found = entry(path, "labels")
    if isinstance(found, list):
        if not all(type(label) is int and abs(label) < 2**31 for label in found):
            raise LabError(f"{path}: labels are not a list of whole numbers")
        found = np.array(found, dtype="int64")
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise LabError(f"{path}: labels are {described(found)}, not a list of whole numbers")
    if len(found) > MOST:
        raise LabError(f"{path}: {len(found):,} labels, where a file has at most {MOST:,} images")
    if found.min() < 1 or found.max() > CLASSES:
        raise LabError(f"{path}: labels from {found.min()} to {found.max()}, not 1 to {CLASSES}")
    return torch.from_numpy(found.astype("int64")) - 1


def described(found: Any) -> str:
    return f"{found.dtype} {found.shape}" if hasattr(found, "dtype") else f"a {type(found).__name__}"


def entry(path: Path, name: str) -> Any:
    """`data` or `labels` of one file: an array, or a list of what it is."""
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                return npz_entry(path, f"{name}.npy")
            file.seek(0)
            content = pickled.read(file)
        if not isinstance(content, dict):
            raise LabError(f"{path}: holds a {type(content).__name__}, not a dict")
        found = content[name]
        return found.numbers() if isinstance(found, pickled.Array) else found
    except KeyError:
        raise LabError(f"{path}: has no {name!r}") from None
    except LabError:
        raise
    except pickled.Refused as error:
        raise LabError(f"{path}: {one_line(error)}") from None
    except Exception as error:  # whatever zipfile and numpy make of a damaged file
        raise LabError(f"{path}: damaged or not a batch of ImageNet ({one_line(error)})") from None


def npz_entry(path: Path, name: str) -> Any:
    """An array of an .npz. What it would fill is compared with what the archive has of it, before memory is had."""
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            size = math.prod(shape) * dtype.itemsize + file.tell()
    if dtype.hasobject or size != member.file_size or size > MOST * PIXELS * 8:
        raise ValueError(f"{name} says {dtype} {shape}, and has {member.file_size:,} bytes")
    if member.file_size > max(SMALL, FOLD * member.compress_size):
        raise ValueError(f"{name} would expand from {member.compress_size:,} to {size:,} bytes, which no images do")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name.removesuffix(".npy")]
