"""The learning rate of each method at each batch size, found run by run, as the recipe batch-size-scaling asks for it.

At the smallest batch the search starts from a given rate, at every other from the best of the batch before, times the
root of 3. It tries a third of it and three times it, goes on by factors of 3 while the best is at an end, and then
looks between the best and its neighbours, at factors of the root of 3 (the layer rotation paper's search, appendix
B.2). The best rate is the one with the fewest steps to the target on held-out examples, with a seed that no test has.

A run has no early stop, so its number of steps follows from what the batch before needed: a little more. A test run has
2.5 times the steps that the search's seed needed: one that misses the target all the same is slow indeed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...recording import steps_to
from ..recipe import Request
from ..records import Record, Records

MARGIN = 1.25  # times the steps of the batch before: what a run of the search has
PATIENCE = 2.5  # times the steps of the search's seed: what a test run has

Make = Callable[[str, int, float, int, int], Request]  # (method, batch, lr, seed, steps)


@dataclass
class Stage:
    """One method at one batch size.

    Attributes:
        steps: of its runs.
        tried: {rate: steps to the target, or inf}.
        lr: the best rate; None: the search goes on.
        edge: the search ended with its best rate at an end.
        tests: the requests of the test seeds, at that rate.
    """

    batch: int
    steps: int
    tried: dict[float, float] = field(default_factory=dict)
    lr: float | None = None
    edge: bool = False
    tests: list[Request] = field(default_factory=list)


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        make: a request of (method, batch, lr, seed, steps).
        batches: rising.
        first: steps of the runs at the smallest batch.
        least: steps that every run has.
        target: the score.
        seed: of the search.
        seeds: of the tests.
        further: factors of 3 beyond the first three rates, at most.
    """

    make: Make
    batches: Sequence[int]
    first: int
    least: int
    target: float
    seed: int
    seeds: Sequence[int]
    further: int = 4

    def rate(self, lr: float, place: int) -> float:
        """``lr`` times the root of 3 to the power of ``place``: four digits, so that a request names it exactly."""
        return float(f"{lr * 3 ** (place / 2):.4g}")

    def walk(self, records: Records, method: str, lr: float) -> tuple[list[Request], list[Stage]]:
        """(all requests that it takes as far as the records say, the stages that are begun)."""
        wanted: list[Request] = []
        stages: list[Stage] = []
        needed, place = float(self.first), 0
        for number, batch in enumerate(self.batches):
            steps = self.first if number == 0 else max(self.least, math.ceil(MARGIN * needed))
            stage = Stage(batch, steps)
            stages.append(stage)
            best = self.best(records, method, lr, place, stage, wanted)
            if best is None:
                break
            stage.lr = self.rate(lr, best)
            reached = stage.tried[stage.lr]
            if math.isfinite(reached):
                needed, place = reached, best + 1
                count = max(self.least, math.ceil(PATIENCE * reached))
                stage.tests = [self.make(method, batch, stage.lr, seed, count) for seed in self.seeds]
                wanted += stage.tests
        return wanted, stages

    def best(
        self, records: Records, method: str, lr: float, place: int, stage: Stage, wanted: list[Request]
    ) -> int | None:
        """The best place of the rate grid; None: runs are missing, and `wanted` has them."""

        def known(places: Sequence[int]) -> bool:
            requests = [self.make(method, stage.batch, self.rate(lr, at), self.seed, stage.steps) for at in places]
            wanted.extend(requests)
            if not records.have(requests):
                return False
            for at, request in zip(places, requests, strict=True):
                merits[at] = self.merit(records[request])
                stage.tried[self.rate(lr, at)] = -merits[at][0]
            return True

        merits: dict[int, tuple[float, float]] = {}
        if not known([place - 2, place, place + 2]):
            return None
        for _ in range(self.further):
            top = max(merits, key=lambda at: merits[at])
            ends = {min(merits): -2, max(merits): 2}
            if top not in ends:
                break
            if not known([top + ends[top]]):
                return None
        top = max(merits, key=lambda at: merits[at])
        stage.edge = top in (min(merits), max(merits))
        if not known([top - 1, top + 1]):
            return None
        return max(merits, key=lambda at: merits[at])

    def merit(self, record: Record) -> tuple[float, float]:
        """(minus the steps to the target, held-out score): higher is better."""
        if record.diverged:
            return -math.inf, -math.inf
        steps = steps_to(record.curve, "validation_score", self.target)
        score = record.result["validation_score"]
        return (-math.inf if steps is None else -steps), -math.inf if score is None else score
