"""The tasks of the layer rotation paper (table 1), and the one that stands for them on two cores.

Reference: *An experimental study of layer-level training speed and its impact on generalization* (2019), table 1 and
the authors' code, which has the epochs, learning rates and schedules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...sweep.rates import exact
from .. import tasks
from ..recipe import Request, Scale

RMSPROP = "alpha=0.9"  # its smoothing in the authors' code, Keras's; "alpha" is RMSProp's own option
VALIDATION = 0.1  # of the training examples, in every run: learning rates are chosen on them


def power(exponent: float) -> float:
    """3^exponent: the paper's learning rates."""
    return exact(3.0**exponent)


@dataclass(frozen=True)
class Setting:
    """One task with the authors' settings.

    Attributes:
        task: arguments of `tasks.images`.
        examples: of the training set, the held-out ones included.
        schedule, schedule_l2: of the learning rate; the second one for all methods with L2 (None: the same).
        epochs_l2: of all methods with L2 (None: the same).
        sgd, sgd_l2: learning rates of SGD without and with L2.
        l2: lambda of lambda*sum(w^2); torch's weight_decay is twice that.
        adaptive: method, learning rate and title of the adaptive method in figure 5.
        pair: of figure 6: the adaptive direction under Layca, and its non-adaptive equivalent.
        model: arguments of the lab's model for table 1: name, input shape, classes, options.
    """

    key: str
    title: str
    architecture: str
    task: Mapping[str, Any]
    examples: int
    epochs: int
    schedule: str
    sgd: float = power(-1)
    sgd_l2: float = power(-1)
    l2: float = 1e-3
    adaptive: tuple[str, float, str] = (f"rmsprop:{RMSPROP}", power(-6), "RMSProp")
    pair: tuple[str, str] = ("rmsprop", "sgd")
    schedule_l2: str | None = None
    epochs_l2: int | None = None
    batch: int = 128
    dtype: str = "fp32"
    model: Mapping[str, Any] = field(default_factory=dict)

    def epoch(self) -> int:
        """Steps of an epoch."""
        kept = self.examples - round(VALIDATION * self.examples)
        return max(1, kept // self.batch)


def every_25(epochs: int) -> str:
    return "steps:0.5@" + "/".join(f"{k / epochs:.6g}" for k in range(25, epochs, 25))


def model(name: str, size: int, classes: int, **options: Any) -> dict[str, Any]:
    return {"name": name, "shape": (3, size, size), "classes": classes, "options": options}


CNN1 = Setting(
    "C10-CNN1", "C10-CNN1", "25 layers deep CNN", {"data": "cifar10", "model": "c10-cnn1"}, 50_000, 100,
    "steps:0.2@0.8/0.9/0.97", model=model("c10-cnn1", 32, 10),
)  # fmt: skip
RESNET = Setting(
    "C100-resnet", "C100-resnet", "ResNet-32", {"data": "cifar100", "model": "resnet-32"}, 50_000, 100,
    "steps:0.1@0.7/0.9/0.97", adaptive=("adam", power(-5), "Adam"), pair=("adam", "ema_momentum"),
    model=model("resnet-32", 32, 100),
)  # fmt: skip
TINY = Setting(
    "tiny-CNN", "tiny-CNN", "11 layers deep CNN", {"data": "tiny-imagenet", "model": "tiny-cnn"}, 100_000, 80,
    "steps:0.2@0.875", adaptive=("adagrad", power(-4), "AdaGrad"), pair=("adagrad", "sgd"),
    model=model("tiny-cnn", 64, 200),
)  # fmt: skip
CNN2 = Setting(
    "C10-CNN2", "C10-CNN2", "deep CNN from torch blog",
    {"data": "cifar10", "model": "torch-blog-vgg", "augment": True}, 50_000, 250, "steps:0.2@0.4/0.68/0.88",
    sgd_l2=0.5, l2=5e-4, adaptive=(f"rmsprop:{RMSPROP},wd=0.001", 3e-4, "RMSProp + L2"), schedule_l2=every_25(250),
    model=model("torch-blog-vgg", 32, 10),
)  # fmt: skip
WRN = Setting(
    "C100-WRN", "C100-WRN", "Wide ResNet 28-10 with 0.3 dropout",
    {"data": "cifar100", "model": "wrn-28-10", "augment": True}, 50_000, 250, "steps:0.2@0.4/0.68/0.88",
    sgd=power(-2), sgd_l2=0.1, l2=5e-4, adaptive=("adam:wd=0.001", 3e-4, "Adam + L2"),
    pair=("adam", "ema_momentum"), schedule_l2="steps:0.2@0.3/0.6/0.8", epochs_l2=200,
    model=model("wrn-28-10", 32, 100),
)  # fmt: skip
PAPER = (CNN1, RESNET, TINY, CNN2, WRN)

# The smaller C10-CNN1 of the authors' code on a fifth of CIFAR-10. Half the paper's batch: the number of steps decides
# how far layers can turn, and how far L2 can shrink them.
SMALL = Setting(
    "C10-CNN1-small", "small C10-CNN1, 10,000 images", "13 layers deep CNN",
    {"data": "cifar10", "model": "c10-cnn1-small", "train": 10_000, "test": 5_000}, 10_000, 7,
    "steps:0.2@0.8/0.9/0.97", batch=64, dtype="bf16", model=model("c10-cnn1-small", 32, 10),
)  # fmt: skip
TOY = Setting(
    "toy", "tiny CNN on digits", "5 layers deep CNN",
    {
        "data": "digits-as-cifar10", "model": "c10-cnn1-small", "train": 96, "test": 48,
        "options": {"width": 4, "convs": 1},
    },
    96, 3, "steps:0.2@0.8", batch=32, model=model("c10-cnn1-small", 32, 10, width=4, convs=1),
)  # fmt: skip


def settings(scale: Scale, count: int = 5) -> tuple[Setting, ...]:
    """The tasks of a figure: at paper scale the first `count` of table 1, else the one that stands for them."""
    return scale.pick((TOY,), (SMALL,), PAPER[:count])


def request(scale: Scale, setting: Setting, method: str, lr: float, seed: int, **other: Any) -> Request:
    """A training with the task's settings; `other` options override them."""
    epoch = setting.epoch()
    rarely = 1 if scale.name != "paper" else max(1, math.ceil(setting.epochs / 100))
    return {
        "task": tasks.reference("images", **setting.task),
        "method": method,
        "lr": exact(lr),
        "seed": seed,
        "steps": setting.epochs * epoch,
        "batch_size": setting.batch,
        "schedule": setting.schedule,
        "dtype": setting.dtype,
        "validation": VALIDATION,
        "eval_every": epoch * rarely,
        "record_every": epoch * rarely,
        "eval_size": scale.pick(48, 500, 2000),
        "device": scale.device,
        "threads": scale.pick(1, 1, None),
    } | other
