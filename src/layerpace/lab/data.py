"""The data sets: found on disk or fetched, checked, and held as tensors.

    load("mnist", data_dir=None) -> Dataset

Looked for in the data folder given, in $LAYERPACE_DATA and in the user's cache, as DIR/mnist/... or
directly in DIR; then downloaded into the cache. `digits` comes with scikit-learn and needs no file.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .downloads import fetch
from .errors import LabError, UsageError
from .extras import require
from .formats import check_labels, parse_cifar, parse_idx, read_bytes
from .sources import FASHION_MNIST, IDX_PARTS, MNIST, SOURCES, Source


@dataclass(frozen=True)
class Dataset:
    """Training and test examples, first dimension the examples.

    Attributes:
        train_inputs, test_inputs: [N, ...]. uint8 inputs (images) stay as they are in memory and become
            (x - mean) / std, float32, a batch at a time; all others (floats, token ids) are used as they are.
        train_targets, test_targets: [N, ...], whatever the task's loss takes (int64 classes here).
        classes: number of classes, 0 where that has no meaning.
        mean, std: one number for all pixels and channels, in the units of uint8 inputs.

    Raises:
        UsageError: inputs and targets of different lengths, or none at all.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        for name, inputs, targets in (
            ("train", self.train_inputs, self.train_targets),
            ("test", self.test_inputs, self.test_targets),
        ):
            if len(inputs) != len(targets) or len(inputs) == 0:
                raise UsageError(f"the {name} set has {len(inputs)} inputs and {len(targets)} targets")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train_inputs.shape[1:])

    def floats(self, inputs: Tensor) -> Tensor:
        """A batch as the model sees it."""
        if inputs.dtype != torch.uint8:
            return inputs
        return inputs.float().sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> Dataset:
        names = ("train_inputs", "train_targets", "test_inputs", "test_targets")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def fingerprint(self) -> str:
        """Changes when any example, target or scale does."""
        digest = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for tensor in (self.train_inputs, self.train_targets, self.test_inputs, self.test_targets):
            digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
            if tensor.numel():
                digest.update(raw_bytes(tensor))
        return digest.hexdigest()[:16]


def raw_bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor, for hashing."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


Warn = Callable[[str], None]


def to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


def load(name: str, data_dir: Path | None = None, warn: Warn = to_stderr) -> Dataset:
    """The data set called `name`; a LabError says which files to put where if it cannot be had."""
    if name == "digits":
        return digits()
    if name not in SOURCES:
        raise UsageError(f"unknown data set {name!r}: choose from digits, {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = find(source, data_dir, os.environ, warn)
    return images_of(source, folder, read_files(source, folder, warn))


def digits() -> Dataset:
    """scikit-learn's 1797 digits, 8x8, 0 to 16. Of each class every fourth image is for testing (445 in all)."""
    require(["sklearn"], "the digits data set")
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(inputs).to(torch.uint8).reshape(-1, 1, 8, 8)
    targets = torch.from_numpy(labels).long()
    test = torch.zeros(len(targets), dtype=torch.bool)
    for digit in range(10):
        test[(targets == digit).nonzero().flatten()[3::4]] = True
    return Dataset(images[~test], targets[~test], images[test], targets[test], classes=10, mean=0.0, std=16.0)


def images_of(source: Source, folder: Path, contents: Mapping[str, bytes]) -> Dataset:
    """Parse the files of one source. MNIST's pixels become 0 to 1; CIFAR's get one mean and one sd."""
    if source.files == IDX_PARTS:
        parts = [parse_idx(contents[file], 3 if "images" in file else 1, folder / file) for file in IDX_PARTS]
        for kind, images, labels in (("training", parts[0], parts[1]), ("test", parts[2], parts[3])):
            if len(images) != len(labels):
                raise LabError(f"{folder}: {len(images)} {kind} images but {len(labels)} labels")
            check_labels(labels, source.classes, folder)
        train_images, test_images = parts[0].unsqueeze(1), parts[2].unsqueeze(1)
        return Dataset(train_images, parts[1].long(), test_images, parts[3].long(), source.classes, std=255.0)
    pairs = [parse_cifar(contents[file], source.label_bytes, source.classes, folder / file) for file in source.files]
    inputs = torch.cat([images for images, _ in pairs[:-1]])
    targets = torch.cat([labels for _, labels in pairs[:-1]])
    std, mean = torch.std_mean(inputs.float())
    return Dataset(inputs, targets, *pairs[-1], source.classes, mean=round(mean.item(), 3), std=round(std.item(), 3))


def read_files(source: Source, folder: Path, warn: Warn) -> dict[str, bytes]:
    """The content of every file; known hashes that differ are said once, and the structure decides."""
    contents = {file: read_bytes(present(folder, file) or folder / file) for file in source.files}
    hashes = {file: hashlib.md5(content, usedforsecurity=False).hexdigest() for file, content in contents.items()}
    others = [file for file in source.files if source.md5.get(file, hashes[file]) != hashes[file]]
    if others:
        warn(
            f"warning: {len(others)} of {len(contents)} files in {folder} are not the official {source.name} files "
            f"(md5 differs): {', '.join(others)}; figures measured on them do not compare with published ones"
        )
    return contents


def present(folder: Path, file: str) -> Path | None:
    """The file itself or its .gz, if it is there."""
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    return None


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "layerpace"


def find(source: Source, data_dir: Path | None, environment: Mapping[str, str], warn: Warn) -> Path:
    """The folder that holds every file of `source`, downloading into the cache as the last resort."""
    given = [Path(path) for path in (data_dir, environment.get("LAYERPACE_DATA")) if path]
    for path in given:
        if not path.is_dir():
            raise UsageError(f"the data folder {path} does not exist")
    cache = cache_dir()
    for root in (*given, cache):
        for folder in (root / source.folder, root / source.name, root):
            if all(present(folder, file) for file in source.files):
                return folder
    target = cache / source.folder
    try:
        fetch(source, target, warn)
    except (LabError, OSError) as error:
        where = given[0] if given else cache
        gz = "[.gz]" if source in (MNIST, FASHION_MNIST) else ""
        files = ", ".join(f"{file}{gz}" for file in source.files)
        raise LabError(
            f"{source.name} is not at hand and could not be downloaded; put {files} into "
            f"{where / source.folder} ({error})"
        ) from None
    return target
