"""Data sets that are folders of files, which one fetches oneself: where they are and what they must hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .dataset import Dataset
from .errors import LabError
from .imagenet64 import BATCHES, read_imagenet64
from .ratings import read_movielens
from .tiny_imagenet import read_tiny_imagenet


@dataclass(frozen=True)
class Folder:
    """One data set as it is published.

    Attributes:
        folder: its folder under a data folder, as the archive unpacks.
        needs: files and folders it must hold.
        suffixes: that a file of `needs` may have.
        read: the folder -> the data set.
        origin: where people get it.
    """

    name: str
    folder: str
    needs: tuple[str, ...]
    read: Callable[[Path], Dataset]
    origin: str
    suffixes: tuple[str, ...] = ("",)

    def missing(self, folder: Path) -> list[str]:
        return [
            need for need in self.needs if not any((folder / f"{need}{suffix}").exists() for suffix in self.suffixes)
        ]


FOLDERS = {
    source.name: source
    for source in (
        Folder(
            name="tiny-imagenet",
            folder="tiny-imagenet-200",
            needs=("train", "val/images", "val/val_annotations.txt"),
            read=read_tiny_imagenet,
            origin="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        ),
        Folder(
            name="imagenet64",
            folder="imagenet64",
            needs=BATCHES,
            read=read_imagenet64,
            origin="https://image-net.org/download-images (downsampled images, 64x64, train and val)",
            suffixes=(".npz", ""),
        ),
        Folder(
            name="movielens-100k",
            folder="ml-100k",
            needs=("u1.base", "u1.test"),
            read=read_movielens,
            origin="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        ),
    )
}


def load_folder(source: Folder, roots: Sequence[Path]) -> Dataset:
    """Read the data set from the first of `roots` that has all of it, as ROOT/folder, ROOT/name or ROOT itself.

    Raises:
        LabError: nowhere, with what to put where, or what a folder that is there lacks.
    """
    places = [place for root in roots for place in (root / source.folder, root / source.name, root)]
    for place in places:
        if not source.missing(place):
            return source.read(place)
    parts = [place for place in places if len(source.missing(place)) < len(source.needs)]
    lacks = f"; {parts[0]} lacks {', '.join(source.missing(parts[0]))}" if parts else ""
    suffix = f"[{source.suffixes[0]}]" if len(source.suffixes) > 1 else ""
    raise LabError(
        f"{source.name} is not at hand: unpack {source.origin}, so that {roots[0] / source.folder} holds "
        f"{', '.join(need + suffix for need in source.needs)}{lacks}"
    )
