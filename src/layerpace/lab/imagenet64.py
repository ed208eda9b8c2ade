"""Downsampled ImageNet (Chrabaszcz et al. 2017) at 64x64: train_data_batch_1 ... 10 and val_data.

Each file is an .npz, or a pickled dict (the older form), with `data` uint8 [N, 12288], channel by channel, and
`labels`, 1 to 1000. Pickles can run code, so only numpy arrays and plain containers are let through; an .npz is
preferred where both are there.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dataset import Dataset, pixel_scale
from .errors import LabError, one_line
from .extras import require

CLASSES = 1000
SIDE = 64
PIXELS = 3 * SIDE * SIDE
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
        if data.dtype != "uint8" or data.shape != wanted:
            raise LabError(f"{path}: data is {data.dtype} {data.shape}, not uint8 {wanted} as its labels say")
        images[start : start + len(data)] = torch.from_numpy(data)
        start += len(data)
    return images.reshape(-1, 3, SIDE, SIDE), torch.cat(labels)


def labels_of(path: Path) -> Tensor:
    import numpy as np

    values = np.asarray(entry(path, "labels"))
    if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        raise LabError(f"{path}: labels are {values.dtype} {values.shape}, not a list of whole numbers")
    if values.min() < 1 or values.max() > CLASSES:
        raise LabError(f"{path}: labels from {values.min()} to {values.max()}, not 1 to {CLASSES}")
    return torch.from_numpy(values.astype("int64")) - 1


def entry(path: Path, name: str) -> Any:
    """`data` or `labels` of one file."""
    import numpy as np

    try:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                with np.load(path, allow_pickle=False) as arrays:
                    return arrays[name]
            file.seek(0)
            content = ArrayUnpickler(file, encoding="latin1").load()
        if not isinstance(content, Mapping):
            raise LabError(f"{path}: holds a {type(content).__name__}, not a dict")
        return content[name] if name != "data" else np.asarray(content[name])
    except KeyError:
        raise LabError(f"{path}: has no {name!r}") from None
    except pickle.UnpicklingError as error:
        raise LabError(f"{path}: {one_line(error)}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError, IndexError, TypeError, OSError) as error:
        raise LabError(f"{path}: damaged or not a batch of ImageNet ({one_line(error)})") from None


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays, numbers, strings and containers; any other class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        allowed = {
            "multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "multiarray.scalar": np.int64(0).__reduce__()[0],
            "numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
        }
        place = module.removeprefix("numpy.").removeprefix("_").removeprefix("core.")
        if module.startswith("numpy.") and f"{place}.{name}" in allowed:
            return allowed[f"{place}.{name}"]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return latin1  # how Python 3 writes bytes for Python 2
        raise pickle.UnpicklingError(f"refused: its pickle asks for {module}.{name}, which is no array")


def latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"refused: bytes written as {encoding!r}")
    return text.encode("latin1")
