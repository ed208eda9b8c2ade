from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerpace.lab.data import load, subset
from layerpace.lab.errors import LabError, UsageError
from layerpace.lab.tasks import built_in

Image = pytest.importorskip("PIL.Image")

COLOURS = {"n01": (250, 10, 10), "n02": (10, 250, 10), "n03": (10, 10, 250)}


@pytest.fixture(autouse=True)
def no_data_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAYERPACE_DATA", raising=False)


def jpeg(path: Path, colour: tuple[int, int, int] | int, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path, "JPEG", quality=95)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two images of each of three classes, the third class' in grey; two validation images."""
    root = tmp_path / "tiny-imagenet-200"
    for name, colour in COLOURS.items():
        for k in range(2):
            jpeg(root / f"train/{name}/images/{name}_{k}.JPEG", 77 if name == "n03" else colour)
        (root / f"train/{name}/{name}_boxes.txt").write_text("")
    jpeg(root / "val/images/val_0.JPEG", COLOURS["n02"])
    jpeg(root / "val/images/val_1.JPEG", COLOURS["n01"])
    (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t52\t55\t57\t59\n")
    return root


def test_tiny_imagenet_is_decoded_with_the_classes_in_turn(tiny: Path) -> None:
    data = load("tiny-imagenet", tiny.parent)
    assert data.train_inputs.shape == (6, 3, 64, 64)
    assert data.train_targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test_targets.tolist() == [1, 0]
    colours = data.train_inputs.float().mean((2, 3))
    for image, wanted in ((0, COLOURS["n01"]), (1, COLOURS["n02"]), (2, (77, 77, 77))):
        torch.testing.assert_close(colours[image], torch.tensor(wanted).float(), atol=6, rtol=0)
    torch.testing.assert_close(
        data.test_inputs.float().mean((2, 3))[0], torch.tensor(COLOURS["n02"]).float(), atol=6, rtol=0
    )
    assert abs(data.floats(data.train_inputs).mean().item()) < 1e-3
    assert subset(data, train=3).train_targets.tolist() == [0, 1, 2]
    assert load("tiny-imagenet", tiny).fingerprint() == data.fingerprint()  # the folder itself, named


def test_a_damaged_image_is_named(tiny: Path) -> None:
    (tiny / "train/n02/images/n02_1.JPEG").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(LabError, match=r"n02_1\.JPEG: "):
        load("tiny-imagenet", tiny.parent)


def test_an_image_of_another_size_is_named(tiny: Path) -> None:
    jpeg(tiny / "train/n02/images/n02_1.JPEG", 9, size=(32, 64))
    with pytest.raises(LabError, match=r"n02_1\.JPEG: 32x64 pixels, where .*n01_0\.JPEG has 64x64"):
        load("tiny-imagenet", tiny.parent)


def test_an_annotation_of_no_class_is_named_with_its_line(tiny: Path) -> None:
    (tiny / "val/val_annotations.txt").write_text("val_0.JPEG\tn02\t0\nval_1.JPEG\tn99\t0\n")
    with pytest.raises(LabError, match=r"val_annotations\.txt, line 2: 'val_1"):
        load("tiny-imagenet", tiny.parent)


def test_a_class_without_images_is_named(tiny: Path) -> None:
    for path in (tiny / "train/n03/images").iterdir():
        path.unlink()
    with pytest.raises(LabError, match=r"n03/images holds no \*\.JPEG"):
        load("tiny-imagenet", tiny.parent)


@pytest.mark.parametrize(
    ("name", "folder", "wanted"),
    [
        ("tiny-imagenet", "tiny-imagenet-200", "val/val_annotations.txt"),
        ("imagenet64", "imagenet64", "train_data_batch_10[.npz]"),
        ("movielens-100k", "ml-100k", "u1.base, u1.test"),
    ],
)
def test_absent_says_which_files_to_put_where(tmp_path: Path, name: str, folder: str, wanted: str) -> None:
    with pytest.raises(LabError) as error:
        load(name, tmp_path)
    assert str(tmp_path / folder) in str(error.value)
    assert wanted in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="does not exist"):
        load(name, tmp_path / "nowhere")


def test_a_folder_with_a_part_of_the_files_is_told_what_it_lacks(tmp_path: Path, tiny: Path) -> None:
    (tiny / "val/val_annotations.txt").unlink()
    with pytest.raises(LabError, match=r"tiny-imagenet-200 lacks val/val_annotations\.txt"):
        load("tiny-imagenet", tmp_path)


def batch(first: int, number: int = 2) -> dict[str, Any]:
    data = np.arange(number * 12288, dtype=np.uint64).reshape(number, 12288) * 31 + first
    return {
        "data": (data % 251).astype(np.uint8),
        "labels": [first + k for k in range(number)],
        "mean": np.zeros(12288),
    }


@pytest.fixture(params=["npz", "pickle", "pickle 2"])
def imagenet(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Ten training batches of two images, labels 1 to 20, and one of three to test with, labels 998 to 1000."""
    root = tmp_path / "imagenet64"
    root.mkdir()
    files = {f"train_data_batch_{k}": batch(2 * k - 1) for k in range(1, 11)} | {"val_data": batch(998, 3)}
    for name, content in files.items():
        if request.param == "npz":
            np.savez(root / f"{name}.npz", **content)
        else:
            (root / name).write_bytes(pickle.dumps(content, protocol=2 if request.param == "pickle 2" else None))
    return root


def test_imagenet64_is_read_from_npz_and_from_pickles(imagenet: Path) -> None:
    data = load("imagenet64", imagenet.parent)
    assert data.train_inputs.shape == (20, 3, 64, 64)
    assert data.train_targets.tolist() == list(range(20))
    assert data.test_targets.tolist() == [997, 998, 999]
    assert data.classes == 1000
    assert data.train_inputs[3].flatten().tolist() == batch(3)["data"][1].tolist()  # channel by channel
    assert abs(data.floats(data.train_inputs).std().item() - 1) < 1e-3


def test_a_task_is_made_of_it(imagenet: Path) -> None:
    task = built_in("imagenet64", "resnet-18-narrow", imagenet.parent)
    assert (task.name, task.batch_size) == ("imagenet64-resnet-18-narrow", 400)
    net = task.model().eval()
    assert net(task.data.floats(task.data.test_inputs)).shape == (3, 1000)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch harmed",)


def replaced(folder: Path, content: Any) -> Path:
    """The third training batch is `content`, pickled or as it is."""
    for name in ("train_data_batch_3", "train_data_batch_3.npz"):
        (folder / name).unlink(missing_ok=True)
    raw = content if isinstance(content, bytes) else pickle.dumps(content)
    (folder / "train_data_batch_3").write_bytes(raw)
    return folder.parent


def npz_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, data=np.array([Evil()], dtype=object), labels=[1])
    return buffer.getvalue()


@pytest.mark.parametrize("imagenet", ["npz"], indirect=True)
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (Evil(), r"refused: its pickle asks for posix\.system"),
        ({**batch(5), "mean": Evil()}, r"refused: its pickle asks for posix\.system"),
        ({**batch(5), "data": np.array([Evil()], dtype=object)}, "refused"),
        (["no dict"], "holds a list, not a dict"),
        ({"data": batch(5)["data"]}, "has no 'labels'"),
        ({**batch(5), "labels": [0, 1]}, "labels from 0 to 1, not 1 to 1000"),
        ({**batch(5), "labels": [1, 1001]}, "labels from 1 to 1001"),
        ({**batch(5), "labels": ["a", "b"]}, "not a list of whole numbers"),
        ({**batch(5), "labels": [1]}, r"data is uint8 \(2, 12288\), not uint8 \(1, 12288\)"),
        ({**batch(5), "data": np.zeros((2, 12288))}, "data is float64"),
        ({**batch(5), "data": np.zeros((2, 3072), np.uint8)}, r"data is uint8 \(2, 3072\)"),
        (pickle.dumps(batch(5))[:-9000], "truncated"),
        (b"PK\x03\x04 cut", "damaged"),
        (npz_of_objects(), "damaged or not a batch"),
    ],
)
def test_a_file_that_is_no_batch_is_named_and_runs_no_code(imagenet: Path, content: Any, complaint: str) -> None:
    root = replaced(imagenet, content)
    with pytest.raises(LabError, match=complaint) as error:
        load("imagenet64", root)
    assert "train_data_batch_3" in str(error.value)
    assert not Path("harmed").exists()


def test_images_that_would_fill_memory_and_files_that_are_none(tmp_path: Path, tiny: Path) -> None:
    images = sorted((tiny / "train").glob("*/images/*.JPEG"))
    good = images[0].read_bytes()
    Image.new("RGB", (600, 8)).save(images[0], "JPEG")
    with pytest.raises(LabError, match=r"600x8 pixels, of at most 512x512"):
        load("tiny-imagenet", tmp_path)
    for content in (b"", good[: len(good) // 2], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"):
        images[0].write_bytes(content)
        with pytest.raises(LabError, match=images[0].name):
            load("tiny-imagenet", tmp_path)
    images[0].write_bytes(good)
    (tiny / "val/val_annotations.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(LabError, match=r"val_annotations.txt: not a text"):
        load("tiny-imagenet", tmp_path)
