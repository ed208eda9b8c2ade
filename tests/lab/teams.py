"""What the ranks of `test_parallel` do, and their tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layerpace.lab import Dataset, Task
from layerpace.lab.compare import compare as compare_all
from layerpace.lab.compare_plan import Request
from layerpace.lab.errors import Stopped
from layerpace.lab.parallel import Team
from layerpace.lab.single import run
from layerpace.lab.stopping import StopSignals

from .conftest import Silent, tiny_data


def team(shard: str = "ddp") -> Team:
    return Team(dist.get_rank(), dist.get_world_size(), shard, joined=True) if dist.is_initialized() else Team()


class At(StopSignals):
    """A signal that one rank gets at its n-th look; None: never."""

    def __init__(self, looks: int | None) -> None:
        super().__init__()
        self.looks = looks

    @property
    def received(self) -> int | None:  # type: ignore[override]
        if self.looks is not None:
            self.looks -= 1
        return 15 if self.looks is not None and self.looks < 0 else None

    @received.setter
    def received(self, value: int | None) -> None: ...


def train(
    config: dict[str, Any], out: str, shard: str = "ddp", stop: tuple[int, int] | None = None, own: bool = False
) -> dict[str, Any] | str:
    """Make the run; the result, or "stopped".

    Args:
        stop: (rank, looks): this rank gets a signal.
        own: each rank names a folder of its own.
    """
    one = team(shard)
    path = Path(out) / f"rank{one.rank}" if own else Path(out)
    signals = At(stop[1] if stop is not None and stop[0] == one.rank else None)
    try:
        return run(config, path, signals=signals, team=one, checkpoint_seconds=1000.0)
    except Stopped:
        return "stopped"


def compare(out: str, stop: tuple[int, int] | None = None, resume: bool = False) -> dict[str, Any] | str:
    """Compare two methods on `noisy_task`; what results.json holds, or "stopped"."""
    one = team()
    signals = At(stop[1] if stop is not None and stop[0] == one.rank else None)
    request = Request(methods=("lamb", "percent-delta"), seeds=1, out=Path(out), resume=resume, warmup=3, accumulate=2)
    try:
        return compare_all(request, noisy_task(), Silent(), signals, team=one)
    except Stopped:
        return "stopped"


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(16, 2)
    )


def normed_task() -> Task:
    """With batch normalisation and dropout: what differs between processes."""
    return Task("normed", tiny_data(), normed, batch_size=16, steps=12, eval_every=4, target=0.6, threads=1)


def noisy_task() -> Task:
    """Inputs of floats, and noise that depends on the whole batch."""
    data = tiny_data()
    data = Dataset(data.train_inputs / 255, data.train_targets, data.test_inputs / 255, data.test_targets, classes=2)

    def noise(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))

    return Task("noisy", data, model, augment=noise, batch_size=16, steps=12, eval_every=4, target=0.6, threads=1)


def bad_task() -> Task:
    """One example makes the loss infinite, at the end of the training set."""
    data = tiny_data()
    data.train_targets[-1] = 1
    data.train_inputs[-1] = 255

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def model() -> nn.Module:
        class Breaks(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(16, 2)

            def forward(self, inputs: Tensor) -> Tensor:
                bright = inputs.flatten(1).amin(1) >= 1
                return self.linear(inputs.flatten(1)) / torch.where(bright & self.training, 0.0, 1.0)[:, None]

        return Breaks()

    return Task("bad", data, model, loss=loss, batch_size=16, steps=12, eval_every=4, threads=1)


def unused_task() -> Task:
    """With a trainable layer that no output comes from."""

    def model() -> nn.Module:
        class Spare(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(16, 2)
                self.spare = nn.Linear(4, 3)

            def forward(self, inputs: Tensor) -> Tensor:
                return self.linear(inputs.flatten(1))  # type: ignore[no-any-return]

        return Spare()

    return Task("unused", tiny_data(), model, batch_size=16, steps=12, eval_every=4, threads=1)


def generators(config: dict[str, Any], out: str) -> list[Tensor]:
    """The state that dropout finds the generator in, at each step."""
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Dropout) and module.training:
            seen.append(torch.get_rng_state())

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        run(config, Path(out), team=team())
    finally:
        handle.remove()
    return seen


def told(kind: str) -> Any:
    """What `Team.broadcast` gives where rank 0 returns something, or raises."""
    from layerpace.lab.errors import UsageError

    def make() -> dict[str, int]:
        assert dist.get_rank() == 0
        if kind == "usage":
            raise UsageError("--x 3: no")
        if kind == "disk":
            raise OSError("disk full")
        return {"made": 7}

    try:
        return team().broadcast(make)
    except Exception as error:
        return type(error).__name__, str(error)


def in_turn(failing: int | None) -> Any:
    """The moments at which `Team.in_turn` called, or the error."""
    import os
    import time

    from layerpace.lab.errors import LabError

    rank = dist.get_rank()
    os.environ["LOCAL_RANK"] = str(rank)

    def make() -> tuple[float, float]:
        start = time.monotonic()
        time.sleep(0.05)
        if rank == failing:
            raise LabError(f"no data on {rank}")
        return start, time.monotonic()

    try:
        return team().in_turn(make)
    except LabError as error:
        return str(error)
    finally:
        del os.environ["LOCAL_RANK"]
