"""Optuna chooses the runs.

    [search]
    kind = "optuna"
    trials = 50
    sampler = "tpe"                    # or "random", "cmaes"
    seed = 0                           # of the sampler
    storage = "sqlite:///sweep.db"     # optional: a copy of the study for Optuna's dashboard
    [search.space]
    lr = {low = 1e-4, high = 1.0, log = true}
    batch_size = {low = 64, high = 512, step = 64}
    method = ["lamb", "lars", "layca"]

Whole numbers at both ends make whole numbers. Each combination of the grid has a study of its own, of `trials` trials
(so an axis that others depend on, such as the method with rates of its own, belongs in the grid); a trial is a choice
from the space, run with every seed of the grid, and its value is the mean over them.

The studies are made in the driver's process before any worker starts, and only the driver asks and tells them. The run
folders are the truth: what an earlier process finished counts, what it began is gone on with. With one run at a time a
sweep that was killed makes the trials of one that nothing stopped; with several the sampler's next choice depends on
which of them ended first, so no two sweeps are alike.
A run that diverged makes its trial PRUNED: samplers learn that it was bad. One that failed makes it FAIL.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import LabError, UsageError, one_line
from ..extras import require
from ..records import digest
from .cells import Cell, Cells, key
from .objective import Objective
from .protocol import Request, Result
from .space import Axis, read_space

KEYS = ("kind", "objective", "mode", "trials", "sampler", "seed", "space", "storage")
SAMPLERS = ("tpe", "random", "cmaes")
REPEATS = 20  # choices that are known already, in a row, before the next unknown one is taken
TRIALS = 1_000_000


def make(search: Mapping[str, Any], requests: Sequence[Request], begun: Sequence[Request]) -> Trials:
    """A searcher by Optuna; see `protocol.MakeSearcher`."""
    for name in search:
        if name not in KEYS:
            raise UsageError(
                f"[search] {name}: there is no such key for kind = 'optuna': choose from {', '.join(KEYS)}"
            )
    trials, sampler, seed = search.get("trials"), search.get("sampler", "tpe"), search.get("seed", 0)
    if isinstance(trials, bool) or not isinstance(trials, int) or not 1 <= trials <= TRIALS:
        raise UsageError(f"[search] trials = {trials!r}: must be a whole number from 1 to {TRIALS}")
    if sampler not in SAMPLERS:
        raise UsageError(f"[search] sampler = {sampler!r}: choose from {', '.join(SAMPLERS)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise UsageError(f"[search] seed = {seed!r}: must be a whole number from 0 to {2**31 - 1}")
    storage = search.get("storage")
    if storage is not None and (not isinstance(storage, str) or "://" not in storage):
        raise UsageError(f"[search] storage = {storage!r}: must be a URL, such as 'sqlite:///sweep.db'")
    objective, space = Objective.of(search), read_space(search.get("space"))
    cells = Cells(requests, tuple(space))
    require(["optuna", *(["cmaes"] if sampler == "cmaes" else [])], "[search] kind = 'optuna'", "optuna")
    studies = []
    for number, cell in enumerate(cells):
        known = [request for request in begun if cells.of(request) is cell]
        studies.append(Study(cell, space, trials, sampler, seed + number, storage, objective, known))
    return Trials(cells, studies, objective)


class Trials:
    """The searcher: a study for each cell."""

    def __init__(self, cells: Cells, studies: Sequence[Study], objective: Objective) -> None:
        self.cells, self.objective = cells, objective
        self.studies = {id(study.cell): study for study in studies}

    def ask(self, room: int) -> list[Request]:
        found: list[Request] = []
        for study in self.studies.values():
            while len(found) < room and (request := study.ask()) is not None:
                found.append(request)
        return found

    def tell(self, request: Request, result: Result | None) -> None:
        cell = self.cells.of(request)
        if cell is not None:
            cell.tell(request, result, self.objective)
            self.studies[id(cell)].told(request)

    def finished(self) -> bool:
        return all(study.finished() for study in self.studies.values())

    def total(self) -> int:
        return sum(study.trials * len(study.cell.requests) for study in self.studies.values())


class Study:
    """An Optuna study of one cell, and which of its trials stands for which choice.

    Attributes:
        trials: how many choices there are to be; no more than the space has.
        study: of Optuna; it is made at the first ``ask``, when all that was finished before has been told.
    """

    def __init__(
        self,
        cell: Cell,
        space: Mapping[str, Axis],
        trials: int,
        sampler: str,
        seed: int,
        storage: str | None,
        objective: Objective,
        begun: Sequence[Request],
    ) -> None:
        self.cell, self.space, self.begun = cell, space, begun
        self.sampler, self.seed, self.storage, self.objective = sampler, seed, storage, objective
        sizes = [axis.size for axis in space.values()]
        whole = 1
        for size in sizes:
            whole *= size or TRIALS
        self.trials = min(trials, whole)
        self.finite = all(sizes)
        self.running: dict[str, Any] = {}  # choice -> Optuna's trial
        self.known: set[str] = set()  # choices that count
        self.queue: list[Request] = []
        self.study: Any = None
        self.copy: Any = None  # of the storage
        self.recorded: set[str] = set()  # choices that the storage has
        self.earlier: dict[str, Mapping[str, Any]] = {}  # what earlier processes finished, and has not had its turn
        self.unfinished: dict[str, Mapping[str, Any]] = {}  # ... and what they began

    def ask(self) -> Request | None:
        """The next request; None: all have been asked for."""
        if self.study is None:
            self.start()
        while not self.queue and len(self.known) < self.trials:
            choice = self.choose()
            if choice is not None:
                self.known.add(key(choice))
                self.queue = self.cell.runs(choice)
        return self.queue.pop(0) if self.queue else None

    def finished(self) -> bool:
        return self.study is not None and not self.queue and len(self.known) >= self.trials

    def told(self, request: Mapping[str, Any]) -> None:
        """A result has come; once all seeds of a choice have theirs, Optuna hears of it."""
        choice = {axis: request[axis] for axis in self.space}
        trial = self.running.get(key(choice))
        if trial is not None and self.cell.merit(choice) is not None:
            del self.running[key(choice)]
            state, value = self.verdict(choice)
            self.study.tell(trial, value, state=state)
            self.copied(choice)

    def verdict(self, choice: Mapping[str, Any]) -> tuple[Any, float | None]:
        """How a trial ended: (Optuna's state, value)."""
        from optuna.trial import TrialState

        merit = self.cell.merit(choice)
        assert merit is not None
        if self.cell.failed(choice):
            return TrialState.FAIL, None
        if merit == float("-inf"):
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, merit if self.objective.mode == "max" else -merit

    def start(self) -> None:
        """Make the study, with the seed that it had at first, and find out what earlier processes made and began."""
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        self.distributions = {name: axis.distribution() for name, axis in self.space.items()}
        sampler = make_sampler(self.sampler, self.seed)
        self.study = optuna.create_study(sampler=sampler, direction=self.direction)
        if self.storage is not None:
            self.open_copy(self.storage)
        held = {name: choice for name, choice in self.cell.choices.items() if self.holds(choice)}
        self.earlier = {name: choice for name, choice in held.items() if self.cell.merit(choice) is not None}
        for choice in self.earlier.values():
            self.copied(choice)
        begun = [{axis: request[axis] for axis in self.space} for request in self.begun]
        unfinished = [*begun, *(choice for name, choice in held.items() if name not in self.earlier)]
        self.unfinished = {key(choice): choice for choice in unfinished if self.holds(choice)}

    @property
    def direction(self) -> Any:
        return "maximize" if self.objective.mode == "max" else "minimize"

    def open_copy(self, storage: str) -> None:
        """Open the study of the storage, and see what it has."""
        import optuna
        from optuna.trial import TrialState

        try:
            self.copy = optuna.create_study(
                storage=storage, study_name=self.name(), direction=self.direction, load_if_exists=True
            )
        except Exception as error:  # whatever a data base says
            raise LabError(f"[search] storage = {storage!r}: {one_line(error)}") from error
        for trial in self.copy.get_trials(deepcopy=False):
            if trial.state.is_finished():
                self.recorded.add(key(trial.params))
            elif trial.state == TrialState.RUNNING:  # of a process that is gone
                self.copy.tell(trial.number, state=TrialState.FAIL)

    def copied(self, choice: Mapping[str, Any]) -> None:
        """Let the storage, where there is one, have a trial that has ended, once."""
        if self.copy is not None and key(choice) not in self.recorded:
            self.recorded.add(key(choice))
            self.copy.add_trial(self.as_trial(choice))

    def as_trial(self, choice: Mapping[str, Any]) -> Any:
        """A trial that has ended, as Optuna keeps it."""
        from optuna.trial import create_trial

        state, value = self.verdict(choice)
        return create_trial(params=dict(choice), distributions=self.distributions, value=value, state=state)

    def name(self) -> str:
        """Of Optuna's study: it tells apart all that may share a storage."""
        options = ", ".join(f"{name}={item}" for name, item in self.cell.options.items())
        axes = {name: axis.text() for name, axis in self.space.items()}
        return f"{options[:80]} {digest([self.cell.options, axes, self.objective.key, self.objective.mode])}".strip()

    def holds(self, choice: Mapping[str, Any]) -> bool:
        """Whether the space, which may have been edited since, has this choice."""
        return all(axis.holds(choice[name]) for name, axis in self.space.items())

    def choose(self) -> dict[str, Any] | None:
        """A choice that is not known yet, with a trial of Optuna's running for it; None: see `leave_order`.

        What earlier processes made comes up again in its turn, since the sampler has its first seed and hears the same
        results: a search that was killed goes on with the trials that it would have made.
        """
        from optuna.trial import TrialState

        for _ in itertools.count() if not self.finite else range(REPEATS):
            trial = self.study.ask(self.distributions)
            choice = {name: trial.params[name] for name in self.space}
            name = key(choice)
            if name not in self.known and self.in_turn(name):
                self.running[name] = trial
                return choice
            # Optuna does not know that a run of a known choice would give what it gave.
            known = name in self.known and self.cell.merit(choice) is not None
            state, value = self.verdict(choice) if known else (TrialState.FAIL, None)
            self.study.tell(trial, value, state=state)
            if name not in self.known:
                self.leave_order()
                return None
        choice = next(choice for choice in combinations(self.space) if key(choice) not in self.known)
        self.in_turn(key(choice))
        self.study.enqueue_trial(choice)
        self.running[key(choice)] = self.study.ask(self.distributions)
        return choice

    def in_turn(self, name: str) -> bool:
        """Whether a choice is one that an earlier process made or began, or all of these have had their turn."""
        if name in self.earlier or name in self.unfinished:
            self.earlier.pop(name, None)
            self.unfinished.pop(name, None)
            return True
        return not self.earlier and not self.unfinished

    def leave_order(self) -> None:
        """Put into the study what earlier processes made in an order that cannot be had again.

        Where several runs were under way at once, what the sampler knew when it was asked depended on which of them
        ended first. All that is finished counts, and what was begun comes next.
        """
        for name, choice in self.earlier.items():
            if len(self.known) < self.trials:
                self.known.add(name)
                self.queue += self.cell.runs(choice)  # they are finished: the driver counts them, and tells again
            self.study.add_trial(self.as_trial(choice))
        for choice in self.unfinished.values():
            self.study.enqueue_trial(choice)
        self.earlier, self.unfinished = {}, {}


def combinations(space: Mapping[str, Axis]) -> Iterator[dict[str, Any]]:
    """Every choice of a finite space, one at a time: there may be more than memory holds."""
    if not space:
        yield {}
        return
    (name, axis), *rest = space.items()
    for value in axis.values():
        for choice in combinations(dict(rest)):
            yield {name: value, **choice}


def make_sampler(name: str, seed: int) -> Any:
    """Optuna's sampler; runs side by side are kept apart where it can do that."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)
