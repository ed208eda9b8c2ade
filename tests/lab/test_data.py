from __future__ import annotations

import gzip
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from layerpace.lab import data, downloads
from layerpace.lab.errors import LabError, UsageError
from layerpace.lab.sources import CIFAR10, IDX_PARTS, MNIST, Source

from .test_formats import idx


@pytest.fixture(autouse=True)
def no_data_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAYERPACE_DATA", raising=False)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise LabError("no network")

    monkeypatch.setattr(data, "fetch", refuse)


def idx_files(train: int = 6, test: int = 3) -> dict[str, bytes]:
    files = {}
    for kind, count in (("train", train), ("t10k", test)):
        files[f"{kind}-images-idx3-ubyte"] = idx((count, 2, 2), bytes(i % 256 for i in range(count * 4)))
        files[f"{kind}-labels-idx1-ubyte"] = idx((count,), bytes(i % 10 for i in range(count)))
    return files


def put(folder: Path, files: dict[str, bytes], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def cifar_file(labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + bytes([label]) * 3072 for label in labels)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["mnist", "."])
def test_idx_sets_are_read_plain_and_packed_from_either_place(tmp_path: Path, packed: bool, inside: str) -> None:
    put(tmp_path / "d" / inside, idx_files(), packed)
    said: list[str] = []
    found = data.load("mnist", tmp_path / "d", said.append)
    assert found.train_inputs.shape == (6, 1, 2, 2)
    assert found.test_targets.tolist() == [0, 1, 2]
    assert torch.equal(found.floats(found.train_inputs[:1]).flatten(), torch.arange(4) / 255)
    assert len(said) == 1
    assert "4 of 4 files" in said[0]
    assert "not the official mnist files" in said[0]


def test_counts_that_disagree_are_an_error(tmp_path: Path) -> None:
    files = idx_files()
    files["t10k-labels-idx1-ubyte"] = idx((2,), bytes(2))
    put(tmp_path / "mnist", files)
    with pytest.raises(LabError, match="3 test images but 2 labels"):
        data.load("mnist", tmp_path, lambda _: None)


def test_labels_out_of_range_are_an_error(tmp_path: Path) -> None:
    put(tmp_path / "mnist", {**idx_files(), "t10k-labels-idx1-ubyte": idx((3,), bytes([0, 1, 10]))})
    with pytest.raises(LabError, match="label 10"):
        data.load("mnist", tmp_path, lambda _: None)


def test_environment_variable_names_a_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "e" / "fashion-mnist", idx_files())
    monkeypatch.setenv("LAYERPACE_DATA", str(tmp_path / "e"))
    assert len(data.load("fashion-mnist", None, lambda _: None).train_inputs) == 6


def test_cifar_is_normalised_by_one_mean_and_sd(tmp_path: Path) -> None:
    files = {f"data_batch_{k}.bin": cifar_file([k, 2 * k]) for k in range(1, 5)}
    put(
        tmp_path / "cifar-10-batches-bin",
        {**files, "data_batch_5.bin": cifar_file([5]), "test_batch.bin": cifar_file([9])},
    )
    found = data.load("cifar10", tmp_path, lambda _: None)
    assert found.train_targets.tolist() == [1, 2, 2, 4, 3, 6, 4, 8, 5]
    assert found.test_targets.tolist() == [9]
    inputs = found.floats(found.train_inputs)
    assert abs(inputs.mean().item()) < 1e-3
    assert abs(inputs.std().item() - 1) < 1e-3


def test_digits_are_split_by_class_and_always_alike() -> None:
    found = data.load("digits")
    assert (len(found.train_inputs), len(found.test_inputs)) == (1352, 445)
    shares = torch.bincount(found.test_targets) / torch.bincount(torch.cat([found.train_targets, found.test_targets]))
    assert ((shares > 0.24) & (shares < 0.26)).all()
    assert found.floats(found.train_inputs).max() == 1
    assert found.fingerprint() == data.load("digits").fingerprint()


def test_the_fingerprint_sees_one_changed_pixel() -> None:
    found = data.load("digits")
    changed = replace(found, test_inputs=found.test_inputs.clone())
    changed.test_inputs[7, 0, 3, 3] += 1
    assert changed.fingerprint() != found.fingerprint()


def test_absent_and_offline_says_which_files_to_put_where(tmp_path: Path, offline: None) -> None:
    with pytest.raises(LabError) as error:
        data.load("mnist", tmp_path)
    assert str(tmp_path / "mnist") in str(error.value)
    assert all(part in str(error.value) for part in IDX_PARTS)


def test_a_data_folder_that_does_not_exist_is_bad_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        data.load("mnist", tmp_path / "nowhere")


def real_mnist() -> Path | None:
    here = Path(__file__).resolve()
    for root in (os.environ.get("LAYERPACE_DATA"), here.parents[2] / "shared/data", here.parents[3] / "shared/data"):
        if root and (Path(root) / "mnist").is_dir():
            return Path(root)
    return None


REAL = real_mnist()


@pytest.mark.skipif(REAL is None, reason="no MNIST in $LAYERPACE_DATA or shared/data")
def test_the_real_mnist_is_official_and_whole() -> None:
    said: list[str] = []
    found = data.load("mnist", REAL, said.append)
    assert said == []
    assert found.train_inputs.shape == (60_000, 1, 28, 28)
    assert found.test_inputs.shape == (10_000, 1, 28, 28)
    assert torch.bincount(found.test_targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files` with Range; the first transfer of each breaks off after `break_after` bytes."""

    files: ClassVar[dict[str, bytes]] = {}
    break_after: ClassVar[int | None] = None
    ranged: ClassVar[bool] = True
    ranges: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        content = self.files.get(self.path.rsplit("/", 1)[-1])
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range") if self.ranged else None
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut, type(self).break_after = self.break_after, None
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serving(files: dict[str, bytes], break_after: int | None = None) -> Iterator[str]:
    Server.files, Server.break_after, Server.ranges = files, break_after, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def served(source: Source, files: dict[str, bytes], *mirrors: str) -> Source:
    return replace(source, downloads={n: md5(c).hexdigest() for n, c in files.items()}, mirrors=mirrors)


def test_a_broken_transfer_is_resumed_from_where_it_stopped(tmp_path: Path) -> None:
    files = {f"{n}.gz": gzip.compress(c) + bytes(1000) for n, c in idx_files().items()}
    first = next(iter(files))
    with serving(files, break_after=500) as address:
        downloads.fetch(served(MNIST, files, address, address), tmp_path, lambda _: None)
    assert Server.ranges[:2] == [None, "bytes=500-"]
    assert (tmp_path / first).read_bytes() == files[first]
    assert not list(tmp_path.glob("*.part"))


def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "ranged", False)
    files = {f"{n}.gz": gzip.compress(c) + bytes(1000) for n, c in idx_files().items()}
    with serving(files, break_after=500) as address:
        downloads.fetch(served(MNIST, files, address, address), tmp_path, lambda _: None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_file_with_another_hash_is_not_kept(tmp_path: Path) -> None:
    files = {f"{n}.gz": gzip.compress(c) for n, c in idx_files().items()}
    with serving(dict.fromkeys(files, b"something else")) as address, pytest.raises(LabError, match="hash"):
        downloads.fetch(served(MNIST, files, address), tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_the_next_mirror_is_tried(tmp_path: Path) -> None:
    files = {f"{n}.gz": gzip.compress(c) for n, c in idx_files().items()}
    said: list[str] = []
    with serving(files) as address:
        downloads.fetch(served(MNIST, files, "http://127.0.0.1:9/", address), tmp_path, said.append)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files)
    assert len(said) == 8


def test_an_archive_is_unpacked_into_the_files_alone(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in (*CIFAR10.files, "../outside.txt"):
            entry = tarfile.TarInfo(f"{CIFAR10.folder}/{name}")
            content = cifar_file([1])
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    files = {"cifar-10-binary.tar.gz": buffer.getvalue()}
    with serving(files) as address:
        downloads.fetch(served(CIFAR10, files, address), tmp_path / "c", lambda _: None)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == sorted(CIFAR10.files)
    assert not (tmp_path / "outside.txt").exists()
