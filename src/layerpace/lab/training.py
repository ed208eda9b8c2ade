"""One run: one model, one optimizer, one learning rate, one seed.

Every run of a seed starts from the same weights and sees the same batches, whatever the number of processes that share
each batch. A run that is killed goes on from its last checkpoint and, with as many processes, ends with the same bits.
Nothing in a step waits for the device; losses and what the run's monitor measures stay there until the next evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..monitors.monitor import Monitor
from .batches import Batches, evenly, portion
from .clock import StepClock
from .errors import LabError, Stopped, one_line
from .methods import Method
from .parallel import Team
from .recording import scalars, state_of, steps_to, summary, watch
from .records import CHECKPOINT, CURVE, RunFolder
from .reproducible import weights_digest
from .run_settings import Settings
from .schedule import scheduler
from .states import handed_out, load_model, whole
from .stopping import StopSignals
from .tasks import Task

EVAL_BATCH = {"cpu": 250}  # elsewhere 2000; on a CPU, activations should stay in its cache
ASK = 8  # steps between looks at whether another process has a signal
TRAIN_EVAL = 5000  # training examples that the end is scored on, at most
OnPoint = Callable[[int, float], None]  # (steps done, score)


class Run:
    """Trains one model; `train()` returns the run's result. All processes of a team make the same run together."""

    def __init__(
        self,
        task: Task,
        method: Method,
        lr: float,
        seed: int,
        settings: Settings,
        folder: RunFolder,
        indices: tuple[Tensor, Tensor],
        team: Team | None = None,
    ) -> None:
        """`task.data` is on the device; `indices` are the training and validation examples."""
        self.task, self.settings, self.folder, self.seed = task, settings, folder, seed
        self.team = team or Team()
        self.device = settings.device
        torch.manual_seed(seed)
        self.model = task.model().to(self.device)
        self.channels_last = len(task.data.input_shape) == 3
        if self.channels_last and not self.team.sharded:  # FSDP takes contiguous parameters only
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        train, validation = indices
        self.batches = Batches(task.data, train, settings.batch_size, seed, task.augment, self.team)
        self.wrapped = self.model
        multipliers, roles = method.multipliers(self.model, self.example), method.roles(self.model, self.example)
        unused = self.team.replicated and self.team.max(int(self.leaves_out())) > 0
        self.wrapped = self.team.wrapped(self.model, unused)
        self.validation = validation[evenly(len(validation), settings.eval_size)].to(self.device)
        self.some_train = train[evenly(len(train), TRAIN_EVAL)].to(self.device)
        self.all_validation = validation.to(self.device)
        tests = len(task.data.test_inputs)
        self.tests = evenly(tests, settings.eval_size).to(self.device)
        self.all_tests = torch.arange(tests, device=self.device)
        named = list(self.model.named_parameters())
        self.optimizer = method.build(named, lr * settings.lr_scale, multipliers, roles)
        self.scheduler = scheduler(
            method.schedule or settings.schedule, self.optimizer, settings.steps, settings.warmup
        )
        self.clock = StepClock(self.device)
        self.losses = torch.zeros(settings.steps, device=self.device)  # of this process' shares; see `point`
        self.done = 0
        self.read = 0  # losses before this step have been looked at
        self.score = 0.0  # of the last evaluation
        self.saved = time.monotonic()

    def train(self, signals: StopSignals, on_point: OnPoint) -> dict[str, Any]:
        """Run to the end, or to the first loss that is not finite, and write DONE."""
        place = self.device if self.team.size == 1 else torch.device("cpu")
        state = handed_out(self.team, lambda: self.folder.restore(place))
        self.monitor = self.watched(resume=state is not None)
        try:
            if self.team.regroups:
                self.rehearse()
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
                    if due and self.team.max(int(time.monotonic() - self.saved >= self.settings.checkpoint_seconds)):
                        self.save()
                    received = self.signal(signals, due)
                    if received is not None:
                        self.save()
                        raise Stopped(received)
            return self.finish(diverged)
        except BaseException:
            self.monitor.abandon()  # what goes on, goes on from the checkpoint
            raise

    def watched(self, resume: bool) -> Monitor:
        """The run's monitor; a LabError where what it has recorded is damaged."""
        try:
            return watch(self.model, self.optimizer, self.settings.record_every, self.folder, resume)
        except (ValueError, KeyError, TypeError) as error:
            if not resume:
                raise
            raise LabError(f"{one_line(error)}; delete {CHECKPOINT} beside it, and the run starts again") from None

    def rehearse(self) -> bool:
        """A backward pass that leaves no trace, so that all steps add gradients in one order: also after going on.

        Returns whether it has left a trainable parameter without a gradient.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        inputs, targets, _ = self.batches.parts(0, self.settings.accumulate)[0]
        with self.autocast():
            loss = self.task.loss(self.forward(self.wrapped, inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        unused = any(param.requires_grad and param.grad is None for param in self.model.parameters())
        self.model.zero_grad(set_to_none=True)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return unused

    def leaves_out(self) -> bool:
        """Whether a trainable parameter takes no part in a step: DDP would wait for its gradient."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            return self.rehearse()

    def example(self) -> Tensor:
        """What the model's forward takes: one training example."""
        return self.task.data.floats(self.task.data.train_inputs[:1])

    def signal(self, signals: StopSignals, due: bool) -> int | None:
        """The signal that a process has received; all processes hear of it after the same step."""
        received = signals.received
        if self.team.size == 1:
            return received
        return self.team.max(received or 0) or None if due or self.done % ASK == 0 else None

    def step(self) -> int | None:
        """One step; the step at which the optimizer itself refused a gradient that is not finite."""
        if self.team.size > 1:  # dropout that is another one in each process, and the same after going on
            torch.manual_seed(self.batches.mixed(self.done, self.team.rank))
        number = self.settings.accumulate
        parts = self.batches.parts(self.done, number)
        self.clock.start()
        self.optimizer.zero_grad(set_to_none=True)
        for place, (inputs, targets, share) in enumerate(parts):
            with self.team.syncing(self.wrapped, on=place == number - 1):
                with self.autocast():
                    loss = self.task.loss(self.forward(self.wrapped, inputs), targets)
                weight = share * self.team.size  # whose mean over the processes is the mean over the whole batch
                (loss if weight == 1 else loss * weight).backward()  # type: ignore[no-untyped-call]
            self.losses[self.done] += loss.detach() * share
        if self.team.size > 1:  # stochastic rounding that is the same in each replica
            torch.manual_seed(self.batches.mixed(self.done))
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
        losses = self.team.summed(self.losses[self.read : self.done].clone()).tolist()
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
        self.team.broadcast(lambda: self.folder.append(CURVE, [row]))
        self.monitor.log(scalars(row, self.task.metric_name), self.done)
        self.monitor.flush()
        self.read = self.done
        self.score = score
        on_point(self.done, score)
        return None

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, targets: Tensor, indices: Tensor) -> tuple[float, float]:
        """(mean metric, mean loss) over the examples at `indices`, which the processes share out."""
        self.team.align(self.model)
        self.model.eval()
        sums = torch.zeros(2, device=self.device, dtype=torch.float64)
        with self.autocast():
            for batch in torch.split(indices, EVAL_BATCH.get(self.device.type, 2000) * self.team.size):
                own, count = portion(len(batch), self.team.size, self.team.rank)
                part = batch[own]
                outputs = self.forward(self.model, self.task.data.floats(inputs[part]))
                if count:
                    sums[0] += self.task.metric(outputs.float(), targets[part]).double().sum()
                    sums[1] += self.task.loss(outputs, targets[part]) * count
        self.model.train()
        score, loss = self.team.summed(sums).tolist()
        return score / len(indices), loss / len(indices)

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return model(inputs)  # type: ignore[no-any-return]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.dtype == "bf16")

    def finish(self, diverged: int | None) -> dict[str, Any]:
        """Score the whole test set, and some of the training set as it is; keep the weights, write DONE."""
        result: dict[str, Any] = {"status": "done" if diverged is None else "diverged", "diverged_at": diverged}
        result.update(test_score=None, test_loss=None, validation_score=None, train_score=None, train_loss_end=None)
        if diverged is None:
            data = self.task.data
            result["train_score"], result["train_loss_end"] = self.evaluate(
                data.train_inputs, data.train_targets, self.some_train
            )
            result["test_score"], result["test_loss"] = self.evaluate(
                data.test_inputs, data.test_targets, self.all_tests
            )
            if len(self.validation):
                result["validation_score"], _ = self.evaluate(
                    data.train_inputs, data.train_targets, self.all_validation
                )
        self.monitor.flush()
        self.team.align(self.model)
        weights = whole(self.model.state_dict())

        def write() -> dict[str, Any]:
            result.update(**summary(self.folder), **self.clock.medians())
            result["steps_to_target"] = steps_to(self.folder.read(CURVE), "test_score", self.settings.target)
            result["weights_sha256"] = weights_digest(weights)
            self.folder.finish(result, weights)
            return result

        result = self.team.broadcast(write)
        self.monitor.close()  # only now: it touches DONE
        return result

    def save(self) -> None:
        """Write a checkpoint: what a process alone would write, also where several go on from it."""
        cuda = self.device.type == "cuda"
        self.team.align(self.model)
        losses = self.losses.clone()
        losses[self.read :] = self.team.summed(losses[self.read :].clone())
        state = {
            "step": self.done,
            "read": self.read,
            "score": self.score,
            "model": whole(self.model.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "losses": losses,
            "monitor": state_of(self.monitor),
            "clock": self.clock.state(),
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        self.team.broadcast(lambda: self.folder.save(state))
        self.saved = time.monotonic()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; a LabError where it is another run's, or damaged."""
        try:
            self.take(state)
        except KeyError as error:
            raise self.folder.strange(f"it has no {error}") from None
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise self.folder.strange(one_line(error)) from None

    def take(self, state: dict[str, Any]) -> None:
        self.done, self.read, self.score = state["step"], state["read"], state["score"]
        load_model(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        # Losses that are not looked at yet are sums over all processes: one of them has them.
        if state["losses"].shape != self.losses.shape or not 0 <= self.read <= self.done <= self.settings.steps:
            raise ValueError(f"it is of step {self.done}, and has {len(state['losses'])} losses")
        self.losses = state["losses"].to(self.device) if self.team.first else torch.zeros_like(self.losses)
        self.monitor.load_state_dict(state["monitor"])
        self.clock.load(state["clock"])
        torch.set_rng_state(state["cpu_generator"].cpu())
        if state["cuda_generator"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generator"].cpu(), self.device)
