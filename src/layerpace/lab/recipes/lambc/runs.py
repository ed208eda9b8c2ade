"""What the LAMBC recipes train: ResNet-18 on CIFAR-10 by LAMB, with and without bounds on its trust ratio.

Algorithm 1 of the paper gives every tensor a trust ratio, as the implementations of LAMB do that its time had. So here
BatchNorm's scales and shifts have one too, which layerpace leaves out by default, and a tensor of zeros has ratio 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import tasks
from ..recipe import Request, Scale
from ..records import Record, Records

RATE = 1e-2
EVERY_TENSOR = "exclude=None,min_rms=0,zero_ratio=1"
BOUNDS = ("1", "3", "5", "10")
NONE = "none"
START, END = 10, 1  # of the bound that falls
PAPER_STEPS = 4000  # 80 epochs at batch 1000; AdaBound's gamma of 1e-3 is for runs of about that length


@dataclass(frozen=True)
class Setting:
    """What all runs of a scale share.

    Attributes:
        task: its reference.
        train: number of training examples.
        epochs: of a run.
        batches: the three batch sizes that stand for the paper's 1000, 2000 and 3000.
        points: evaluations and records of a run, beside the one at its start.
        extra: further options of the requests.
    """

    task: str
    train: int
    epochs: int
    batches: tuple[int, ...]
    seeds: range
    points: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def per_epoch(self, batch: int) -> int:
        """Steps; a last, smaller batch is left out."""
        return self.train // batch

    def steps(self, batch: int) -> int:
        return self.epochs * self.per_epoch(batch)

    def request(self, clip: str, batch: int, seed: int) -> Request:
        """One run.

        Args:
            clip: "none", a bound, or the name of an adaptive one; see `method`.
        """
        steps = self.steps(batch)
        every = max(1, steps // self.points)
        return {
            "task": self.task,
            "method": method(clip, steps),
            "lr": RATE,
            "seed": seed,
            "batch_size": batch,
            "steps": steps,
            "schedule": "constant",
            "eval_every": every,
            "record_every": every,
            **self.extra,
        }

    def requests(self, clip: str, batch: int) -> list[Request]:
        """One for each seed."""
        return [self.request(clip, batch, seed) for seed in self.seeds]


def setting(scale: Scale) -> Setting:
    """The setting of a scale, the same for all recipes on CIFAR-10, so that they share their runs."""
    # In float32 no network is narrower than 16: for fewer input channels than a vector has, oneDNN's backward pass of a
    # 1x1 convolution with stride 2, channels last, writes out of bounds (github.com/uxlfoundation/oneDNN/issues/6035).
    if scale.name == "smoke":
        small = {"data": "digits-as-cifar10", "model": "resnet-18-narrow", "train": 48, "test": 32}
        extra = {"eval_size": 16, "threads": 1, "device": scale.device}
        return Setting(tasks.reference("images", **small), 48, 1, (8, 16, 24), range(1), 2, extra)
    if scale.name == "cpu":
        small = {"data": "cifar10", "model": "resnet-18", "train": 2000, "options": {"width": 8}}
        extra = {"eval_size": 1000, "threads": 1, "dtype": "bf16", "device": scale.device}
        return Setting(tasks.reference("images", **small), 2000, 20, (40, 80, 120), range(5), 20, extra)
    extra = {"dtype": "bf16", "eval_size": None, "device": scale.device}
    task = tasks.reference("images", data="cifar10", model="resnet-18")
    return Setting(task, 50000, 80, (1000, 2000, 3000), range(5), 40, extra)


def method(clip: str, steps: int) -> str:
    """The method's spec of a clip.

    "none", a number, "running N" (N deviations above each tensor's running mean), "tightening" (AdaBound's two bounds,
    as far closed at the end as after 4000 steps with AdaBound's gamma, 1e-3), "falling" (from 10 to 1 over the first
    half of the run); "kernels none" and "kernels 1": as none and 1, but tensors of one dimension have no ratio.

    Args:
        steps: of the run.

    Raises:
        ValueError: another clip.
    """
    kind, _, number = clip.partition(" ")
    if kind == "kernels":
        return "lamb" if number == NONE else f"lambc:clip={float(number):g}"
    if kind == NONE:
        return f"lamb:{EVERY_TENSOR}"
    if kind == "running":
        rule = f"running(deviations={number})"
    elif kind == "tightening":
        rule = f"tightening(final=1,gamma={1e-3 * PAPER_STEPS / steps:.4g})"
    elif kind == "falling":
        rule = f"falling(start={START},end={END},steps={max(1, steps // 2)})"
    else:
        rule = f"{float(clip):g}"
    return f"lambc:clip={rule},{EVERY_TENSOR}"


def planned(setting: Setting, pairs: Sequence[tuple[str, int]]) -> list[Request]:
    """The requests of all seeds of (clip, batch size) pairs, seed by seed."""
    return [setting.request(clip, batch, seed) for seed in setting.seeds for clip, batch in pairs]


def finished(setting: Setting, records: Records, clip: str, batch: int) -> list[Record]:
    """The runs of all seeds, in order."""
    return records.of(setting.requests(clip, batch))


def network(data: Mapping[str, Any]) -> str:
    """What was trained, for titles; ``data`` has the scale."""
    narrow = {"smoke": " of width 16 on digits", "cpu": " of width 8 on 2000 images of CIFAR-10"}
    return f"ResNet-18{narrow.get(data['scale'], ' on CIFAR-10')} ({data['scale']} scale)"
