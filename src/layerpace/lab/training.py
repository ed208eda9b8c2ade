"""One run: one model, one optimizer, one learning rate, one seed.

Every run of a seed starts from the same weights and sees the same batches. A run that is killed goes on
from its last checkpoint and ends with the same bits. Nothing in a step waits for the device; losses and
what the run's monitor measures stay there until the next evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from layerpace import schedules

from .batches import Batches, evenly
from .clock import StepClock
from .errors import Stopped
from .methods import Method
from .recording import scalars, state_of, summary, watch
from .records import CURVE, RunFolder
from .reproducible import weights_digest
from .stopping import StopSignals
from .tasks import Task

EVAL_BATCH = {"cpu": 250}  # elsewhere 2000; on a CPU, activations should stay in its cache
OnPoint = Callable[[int, float], None]  # (steps done, score)


@dataclass(frozen=True)
class Settings:
    """What all runs of a comparison share.

    Attributes:
        eval_every: steps between evaluations.
        record_every: steps between recordings of the layers' updates; the first step is recorded, too.
        eval_size: test (and held-out) examples of each evaluation, None for all; the end is scored on all.
        dtype: "bf16": autocast; weights stay float32.
        checkpoint_seconds: least time between checkpoints, 0 for one at every evaluation.
    """

    steps: int
    batch_size: int
    eval_every: int
    record_every: int
    eval_size: int | None
    dtype: str
    device: torch.device
    schedule: str
    checkpoint_seconds: float


class Run:
    """Trains one model; `train()` returns the run's result."""

    def __init__(
        self,
        task: Task,
        method: Method,
        lr: float,
        seed: int,
        settings: Settings,
        folder: RunFolder,
        indices: tuple[Tensor, Tensor],
    ) -> None:
        """`task.data` is on the device; `indices` are the training and validation examples."""
        self.task, self.settings, self.folder = task, settings, folder
        self.device = settings.device
        torch.manual_seed(seed)
        self.model = task.model().to(self.device)
        self.channels_last = len(task.data.input_shape) == 3
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        train, validation = indices
        self.batches = Batches(task.data, train, settings.batch_size, seed, task.augment)
        self.validation = validation[evenly(len(validation), settings.eval_size)].to(self.device)
        self.all_validation = validation.to(self.device)
        tests = len(task.data.test_inputs)
        self.tests = evenly(tests, settings.eval_size).to(self.device)
        self.all_tests = torch.arange(tests, device=self.device)
        named = list(self.model.named_parameters())
        self.optimizer = method.build(named, lr)
        self.scheduler = scheduler(method.schedule or settings.schedule, self.optimizer, settings.steps)
        self.clock = StepClock(self.device)
        self.losses = torch.zeros(settings.steps, device=self.device)
        self.done = 0
        self.read = 0  # losses before this step have been looked at
        self.score = 0.0  # of the last evaluation
        self.saved = time.monotonic()

    def train(self, signals: StopSignals, on_point: OnPoint) -> dict[str, Any]:
        """Run to the end, or to the first loss that is not finite, and write DONE."""
        state = self.folder.restore(self.device)
        self.monitor = watch(
            self.model, self.optimizer, self.settings.record_every, self.folder, resume=state is not None
        )
        try:
            if state is not None:
                self.load(state)
                on_point(self.done, self.score)
            else:
                self.point(on_point)
            diverged: int | None = None
            self.model.train()
            with signals.polling():
                while self.done < self.settings.steps:
                    diverged = self.step()
                    due = self.done % self.settings.eval_every == 0 or self.done == self.settings.steps
                    if diverged is None and due:
                        diverged = self.point(on_point)
                    if diverged is not None:  # no checkpoint of it: a run that goes on from one finds it again
                        break
                    if due and time.monotonic() - self.saved >= self.settings.checkpoint_seconds:
                        self.save()
                    if signals.received is not None:
                        self.save()
                        raise Stopped(signals.received)
            return self.finish(diverged)
        except BaseException:
            self.monitor.abandon()  # what goes on, goes on from the checkpoint
            raise

    def step(self) -> int | None:
        """One step; the step at which the optimizer itself refused a gradient that is not finite."""
        inputs, targets = self.batches(self.done)
        self.clock.start()
        with self.autocast():
            loss = self.task.loss(self.forward(inputs), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.losses[self.done] = loss.detach()
        self.clock.before_optimizer()
        try:
            self.optimizer.step()
        except FloatingPointError:
            return self.done + 1
        recorded = (self.done + 1) % self.settings.record_every == 0  # the first step, too, but no clock counts that
        self.clock.stop(count=not recorded)
        if self.scheduler is not None:
            self.scheduler.step()
        self.done += 1
        return None

    def point(self, on_point: OnPoint) -> int | None:
        """Evaluate, write what has gathered, and return the step of the first non-finite loss, if any."""
        losses = self.losses[self.read : self.done].tolist()
        self.clock.collect()
        self.monitor.flush()  # before the evaluation's figures, for the same order of lines always
        for position, loss in enumerate(losses):
            if not abs(loss) < float("inf"):
                return self.read + position + 1
        score, test_loss = self.evaluate(self.task.data.test_inputs, self.task.data.test_targets, self.tests)
        if not abs(test_loss) < float("inf"):
            return max(self.done, 1)
        row: dict[str, Any] = {"step": self.done, "test_score": score, "test_loss": test_loss}
        row["train_loss"] = sum(losses) / len(losses) if losses else None
        if len(self.validation):
            row["validation_score"], row["validation_loss"] = self.evaluate(
                self.task.data.train_inputs, self.task.data.train_targets, self.validation
            )
        self.folder.append(CURVE, [row])
        self.monitor.log(scalars(row, self.task.metric_name), self.done)
        self.monitor.flush()
        self.read = self.done
        self.score = score
        on_point(self.done, score)
        return None

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, targets: Tensor, indices: Tensor) -> tuple[float, float]:
        """(mean metric, mean loss) over the examples at `indices`."""
        self.model.eval()
        score = torch.zeros((), device=self.device, dtype=torch.float64)
        loss = torch.zeros((), device=self.device, dtype=torch.float64)
        with self.autocast():
            for part in torch.split(indices, EVAL_BATCH.get(self.device.type, 2000)):
                outputs = self.forward(self.task.data.floats(inputs[part]))
                loss += self.task.loss(outputs, targets[part]) * len(part)
                score += self.task.metric(outputs.float(), targets[part]).double().sum()
        self.model.train()
        return score.item() / len(indices), loss.item() / len(indices)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self.model(inputs)  # type: ignore[no-any-return]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.dtype == "bf16")

    def finish(self, diverged: int | None) -> dict[str, Any]:
        """Score the whole test set, keep the weights, write DONE."""
        result: dict[str, Any] = {"status": "done" if diverged is None else "diverged", "diverged_at": diverged}
        result.update(test_score=None, test_loss=None, validation_score=None)
        if diverged is None:
            data = self.task.data
            result["test_score"], result["test_loss"] = self.evaluate(
                data.test_inputs, data.test_targets, self.all_tests
            )
            if len(self.validation):
                result["validation_score"], _ = self.evaluate(
                    data.train_inputs, data.train_targets, self.all_validation
                )
        self.monitor.flush()
        result.update(**summary(self.folder), **self.clock.medians())
        result["weights_sha256"] = weights_digest(self.model)
        self.folder.finish(result, self.model.state_dict())
        self.monitor.close()  # only now: it touches DONE
        return result

    def save(self) -> None:
        cuda = self.device.type == "cuda"
        self.folder.save(
            {
                "step": self.done,
                "read": self.read,
                "score": self.score,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                "losses": self.losses,
                "monitor": state_of(self.monitor),
                "clock": self.clock.state(),
                "cpu_generator": torch.get_rng_state(),
                "cuda_generator": torch.cuda.get_rng_state(self.device) if cuda else None,
            }
        )
        self.saved = time.monotonic()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.done, self.read, self.score = state["step"], state["read"], state["score"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.losses = state["losses"]
        self.monitor.load_state_dict(state["monitor"])
        self.clock.load(state["clock"])
        torch.set_rng_state(state["cpu_generator"].cpu())
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"].cpu(), self.device)


def scheduler(name: str, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler | None:
    """constant: none; linear: down to 1% at the last step (PercentDelta's eq. 10); cosine: down to 0."""
    if name == "linear":
        return schedules.linear_decay(optimizer, slope=1 / steps)
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return None
