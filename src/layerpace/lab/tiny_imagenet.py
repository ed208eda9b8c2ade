"""Tiny ImageNet (Stanford's CS231n): 200 classes of 500 images for training and 50 for testing, 64x64, JPEG.

    tiny-imagenet-200/train/WNID/images/*.JPEG
    tiny-imagenet-200/val/images/*.JPEG and val/val_annotations.txt (file, WNID and a box, tab-separated)

Its own test images have no labels, so the validation images are the test set, as in the layer rotation paper.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ..engine.common.printable import printable
from .dataset import Dataset, pixel_scale
from .errors import LabError, one_line
from .extras import require
from .formats import read_text

FORMATS = ("JPEG", "PNG")  # of Pillow's many, one of which starts Ghostscript
LARGEST = 512  # pixels to a side; Tiny ImageNet's images have 64, and all are in memory together


def read_tiny_imagenet(folder: Path) -> Dataset:
    """Decode every image; classes are the folders of train/ in alphabetical order. Needs Pillow.

    Training images stand in turn, the first of each class, then the second, ..., so that a `subset` of them has all
    classes alike.

    Raises:
        LabError: a class without images, an annotation that cannot be read, an image that is damaged or of another
            size than the first; the file is named.
    """
    require(["PIL"], "decoding Tiny ImageNet")
    names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    if not names:
        raise LabError(f"{folder / 'train'} holds no class folders")
    files = []
    for label, name in enumerate(names):
        images = sorted((folder / "train" / name / "images").glob("*.JPEG"))
        if not images:
            raise LabError(f"{folder / 'train' / name / 'images'} holds no *.JPEG")
        files += [(place, label, path) for place, path in enumerate(images)]
    files.sort(key=lambda file: file[:2])
    held_out = labelled(folder / "val", names)
    train = decoded([path for *_, path in files])
    test = decoded([path for path, _ in held_out])
    if train.shape[1:] != test.shape[1:]:
        raise LabError(f"{folder}: training images are {tuple(train.shape[1:])}, val's {tuple(test.shape[1:])}")
    mean, std = pixel_scale(train)
    return Dataset(
        train,
        torch.tensor([label for _, label, _ in files], device="cpu"),
        test,
        torch.tensor([label for _, label in held_out], device="cpu"),
        classes=len(names),
        mean=mean,
        std=std,
    )


def labelled(val: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    """(image, label) of each line of val_annotations.txt."""
    source = val / "val_annotations.txt"
    labels = {name: label for label, name in enumerate(names)}
    found = []
    for number, line in enumerate(read_text(source).splitlines(), 1):
        file, *rest = line.split("\t")
        if not rest or rest[0] not in labels or Path(file).name != file:
            raise LabError(f"{source}, line {number}: {line[:80]!r} is not a file and one of train's classes")
        found.append((val / "images" / file, labels[rest[0]]))
    if not found:
        raise LabError(f"{source} is empty")
    return found


def decoded(paths: Sequence[Path]) -> Tensor:
    """uint8 [N, 3, H, W] of image files; the first one decides the size, grey ones get three channels alike."""
    import numpy as np
    from PIL import Image

    def pixels(path: Path) -> Tensor:
        try:
            with Image.open(path, formats=FORMATS) as image:
                if max(image.size) > LARGEST:
                    raise ValueError(f"{image.width}x{image.height} pixels, of at most {LARGEST}x{LARGEST}")
                return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        except Exception as error:  # whatever Pillow makes of a damaged file
            raise LabError(f"{printable(path)}: {printable(one_line(error))}") from None

    first = pixels(paths[0])
    images = torch.empty(len(paths), *first.shape, dtype=torch.uint8, device="cpu")

    def fill(place: int) -> None:
        image = pixels(paths[place])
        if image.shape != first.shape:
            size, wanted = (f"{shape[2]}x{shape[1]}" for shape in (image.shape, first.shape))
            raise LabError(f"{paths[place]}: {size} pixels, where {paths[0]} has {wanted}")
        images[place] = image

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases Python's lock
        for _ in pool.map(fill, range(len(paths))):
            pass
    return images
