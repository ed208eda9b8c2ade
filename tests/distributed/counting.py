"""How many collectives a step makes, counted in two independent ways."""

from __future__ import annotations

from dataclasses import dataclass

from tests.distributed.training import Job, Training
from torch.distributed.tensor.debug import CommDebugMode
from torch.profiler import ProfilerActivity, profile


@dataclass
class Count:
    """Collectives of one step: what torch dispatched, and what gloo was told to do, by name."""

    dispatched: int
    by_gloo: dict[str, int]


def count(job: Job, watched: bool = False) -> list[Count]:
    """Count those of every step of a training.

    Args:
        watched: by a monitor that records each second step.
    """
    training = Training(job)
    if watched:
        import layerpace as lp

        monitor = lp.Monitor(training.laid.model, training.optimizer, every=2, out=None, initial=None)
    counts = []
    for step in range(job.steps):
        training.set_gradients(step)
        with CommDebugMode() as dispatched, profile(activities=[ProfilerActivity.CPU]) as profiled:
            training.optimizer.step()
        names = {event.key: event.count for event in profiled.key_averages() if event.key.startswith("gloo:")}
        counts.append(Count(dispatched.get_total_counts(), names))
    if watched:
        monitor.close()
    return counts
