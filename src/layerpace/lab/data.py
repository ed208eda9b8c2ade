"""The data sets: found on disk or fetched, checked, and held as tensors.

    load("mnist", data_dir=None) -> Dataset

Looked for in the data folder given, in $LAYERPACE_DATA and in the user's cache, as DIR/mnist/... or
directly in DIR; then downloaded into the cache. `digits` comes with scikit-learn and needs no file;
Tiny ImageNet, ImageNet 64x64 and MovieLens (`folders.py`) are not downloaded.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..engine.common.printable import printable
from .dataset import Dataset, raw_bytes, standardised, subset
from .digits import digits
from .downloads import fetch
from .errors import LabError, UsageError
from .folders import FOLDERS, load_folder
from .formats import check_labels, parse_cifar, parse_idx, read_bytes
from .sources import FASHION_MNIST, IDX_PARTS, MNIST, SOURCES, Source

__all__ = ["Dataset", "Warn", "load", "raw_bytes", "standardised", "subset", "to_stderr"]

Warn = Callable[[str], None]


def to_stderr(message: str) -> None:
    print(printable(message), file=sys.stderr)


def load(name: str, data_dir: Path | None = None, warn: Warn = to_stderr) -> Dataset:
    """The data set called `name`; a LabError says which files to put where if it cannot be had."""
    if name == "digits":
        return digits()
    if name in FOLDERS:
        return load_folder(FOLDERS[name], [*given_folders(data_dir, os.environ), cache_dir()])
    if name not in SOURCES:
        raise UsageError(f"unknown data set {name!r}: choose from {', '.join(['digits', *SOURCES, *FOLDERS])}")
    source = SOURCES[name]
    folder = find(source, data_dir, os.environ, warn)
    return images_of(source, folder, read_files(source, folder, warn))


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


def given_folders(data_dir: Path | None, environment: Mapping[str, str]) -> list[Path]:
    """The data folder asked for, then the one of $LAYERPACE_DATA; a UsageError if one does not exist."""
    given = [Path(path) for path in (data_dir, environment.get("LAYERPACE_DATA")) if path]
    for path in given:
        if not path.is_dir():
            raise UsageError(f"the data folder {path} does not exist")
    return given


def find(source: Source, data_dir: Path | None, environment: Mapping[str, str], warn: Warn) -> Path:
    """The folder that holds every file of `source`, downloading into the cache as the last resort."""
    given = given_folders(data_dir, environment)
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
