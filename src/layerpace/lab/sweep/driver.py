"""Keeps an executor busy with what a searcher asks for, until there is nothing left to make.

All that is known is in the run folders. A driver that starts again reads them, so it may be killed at any moment.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import LabError, Stopped
from ..records import CONFIG, DONE, tidy, to_json, write
from ..stopping import StopSignals
from .process import last_line
from .protocol import FAILED, REQUEST, Config, Executor, Job, Outcome, Request, Result, Searcher
from .runs import Run, Runs, read, result_of

TICK = 0.25  # seconds between two looks at signals, folders and the table


class Reporter(Protocol):
    """Shows what happens; see `table`."""

    def begin(self, driver: Driver) -> None: ...
    def tick(self) -> None: ...
    def ended(self, run: Run) -> None: ...
    def lost(self, run: Run, outcome: Outcome) -> None: ...
    def stopping(self) -> None: ...


class Silent:
    """Shows nothing."""

    def begin(self, driver: Driver) -> None: ...
    def tick(self) -> None: ...
    def ended(self, run: Run) -> None: ...
    def lost(self, run: Run, outcome: Outcome) -> None: ...
    def stopping(self) -> None: ...


class Driver:
    """One sweep under way.

    Args:
        searcher: has not been asked yet.
        retries: how often a run whose worker was lost is tried again.
        keep_failed: runs that an earlier process saw fail are not tried again.
    """

    def __init__(self, runs: Runs, searcher: Searcher, retries: int = 2, keep_failed: bool = False) -> None:
        self.runs, self.searcher, self.retries, self.keep_failed = runs, searcher, retries, keep_failed
        self.queue: deque[Run] = deque()
        self.underway: dict[Path, Job] = {}
        self.equal = 0  # requests that meant a run which was there already
        self.executor: Executor | None = None
        self.reporter: Reporter = Silent()

    def take(self, room: int) -> None:
        """Ask for up to `room` runs; answer at once for those that are finished."""
        while room > 0:
            asked = self.searcher.ask(room)
            if not asked:
                return
            for request in asked:
                run, new = self.runs.add(request)
                self.equal += not new
                if new:
                    self.look(run)
                if run.ended:
                    self.searcher.tell(request, run.result)
                elif new:
                    self.queue.append(run)
                    room -= 1

    def look(self, run: Run) -> None:
        """What an earlier process left of a run."""
        run.result = result_of(run.folder)
        if run.result is not None:
            run.status = "before"
            if self.executor is not None:
                self.tidy(run)
        elif self.keep_failed and (run.folder / FAILED).exists():
            run.status, run.error = "failed", last_line(run.folder / FAILED)
        if run.ended:
            self.reporter.ended(run)

    def tidy(self, *runs: Run) -> None:
        """Remove the checkpoints of runs that were killed right after their DONE."""
        if self.runs.runner.reference.startswith("layerpace."):
            for run in runs:
                if run.status == "before":
                    tidy(run.folder)

    def run(self, executor: Executor, reporter: Reporter, signals: StopSignals, close: bool = True) -> None:
        """Make all runs.

        Args:
            close: the executor, at the end; False: another driver may use it then. After an error it is closed anyway.

        Raises:
            Stopped: a signal came; the workers have ended.
            UsageError: the searcher asked for a run that cannot be; what is finished stays so.
        """
        self.executor, self.reporter = executor, reporter
        try:
            with signals.polling():
                reporter.begin(self)
                while True:
                    slots = executor.slots()
                    self.take(slots - len(self.underway) - len(self.queue))
                    while self.queue and len(self.underway) < executor.slots():
                        self.submit(self.queue.popleft())
                    if not self.underway and not self.queue:
                        if self.searcher.finished():
                            return
                        if slots > 0:  # a cluster may have none for a while, and nothing was asked for then
                            raise LabError("the searcher waits for results, and no run is under way")
                    for outcome in executor.wait(TICK):
                        self.end(outcome)
                    reporter.tick()
                    if signals.received is not None:
                        reporter.stopping()
                        raise Stopped(signals.received)
        except BaseException:
            close = True
            raise
        finally:
            if close:
                executor.close()

    def submit(self, run: Run) -> None:
        """Hand a run to the executor, its request and config in its folder."""
        assert self.executor is not None
        run.attempt += 1
        run.folder.mkdir(parents=True, exist_ok=True)
        write(run.folder / REQUEST, to_json(run.made.request, indent=2))
        config = self.config(run)
        run.threads = self.threads(run, config)
        run.status, run.started = "running", run.started or time.monotonic()
        runner = self.runs.runner.reference
        job = Job(config, run.folder, runner, run.threads, run.made.options, run.attempt)
        self.executor.submit(job)
        self.underway[run.folder] = job

    def config(self, run: Run) -> Config:
        """The config with its threads, in config.json too. A run that was begun keeps those that it began with."""
        config = dict(run.made.config)
        if run.made.open:
            begun = read(run.folder / CONFIG)
            same = {key: value for key, value in begun.items() if key != "threads"} == config
            config["threads"] = (begun.get("threads") if same else None) or self.threads(run, config)
        if read(run.folder / CONFIG) != config:  # its time of writing is that of the run's beginning
            write(run.folder / CONFIG, to_json(config, indent=2))
        return config

    def threads(self, run: Run, config: Config) -> int:
        """CPU threads of a run: what its config says, else its share, but no more than are of use to its task."""
        assert self.executor is not None
        share = self.executor.threads
        return int(config.get("threads") or min(share, run.made.threads or share))

    def end(self, outcome: Outcome) -> None:
        """Take in how a job ended."""
        run = self.runs.by_folder[outcome.job.folder]
        del self.underway[run.folder]
        status, detail = outcome.status, outcome.detail
        if status == "done":
            run.result = result_of(run.folder)
            if run.result is None:
                status, detail = "lost", f"the worker said that it was done, and there is no {run.folder / DONE}"
        if status == "lost" and run.attempt <= self.retries:
            run.status = "waiting"
            self.queue.appendleft(run)
            self.reporter.lost(run, outcome)
            return
        run.seconds = time.monotonic() - run.started
        run.status = "done" if status == "done" else "failed"
        if status == "lost":
            detail = f"lost {run.attempt} time{'s' * (run.attempt > 1)}: {detail}"
            write(run.folder / FAILED, detail + "\n")
        run.error = detail
        for request in run.requests:
            self.searcher.tell(request, run.result)
        self.reporter.ended(run)


def begin(
    runs: Runs, make: Callable[[Sequence[Request]], Searcher], history: bool, retries: int, keep_failed: bool
) -> Driver:
    """A driver whose searcher has been told what earlier processes made.

    Args:
        make: the searcher, from the requests that were begun and not finished.
        history: whether the searcher depends on results.
    """
    begun: list[Request] = []
    told: list[tuple[Request, Result | None]] = []
    for request, folder in runs.earlier() if history else ():
        result = result_of(folder)
        if result is not None or (keep_failed and (folder / FAILED).exists()):
            told.append((request, result))
        else:
            begun.append(request)
    searcher = make(begun)
    for request, result in told:
        searcher.tell(request, result)
    return Driver(runs, searcher, retries, keep_failed)
