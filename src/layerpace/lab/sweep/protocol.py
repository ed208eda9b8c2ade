"""What the parts of a sweep say to each other: requests, jobs, their outcomes, executors, and searchers.

    searcher --requests--> driver --jobs--> executor --outcomes--> driver --results--> searcher

A request is what a user would write: some of the options of `layerpace train`. The driver asks the runner's `resolve`
for the config (every default filled in), whose digest names the folder. A run is finished when its folder holds DONE,
and only then: whoever starts again, on any machine that sees the folders, makes what is not finished and nothing else.
So neither the driver nor an executor nor a searcher keeps anything that a kill could lose. What is in a run's folder:

    request.json, config.json   written by the driver before the job is submitted
    log.txt                     what the run printed
    made.jsonl                  a line for each attempt: when it began and ended (seconds since 1970), and on which
                                machine, by which commit of layerpace
    DONE                        JSON, the result; written last, in one step
    FAILED                      text, the traceback of the last attempt that raised; gone once the run is done
    ...                         what the runner itself writes: curve.jsonl, checkpoint.pt, ...

Kinds of searcher and of executor are modules of this package with one function each:

    make(search, requests, begun) -> Searcher       grid, optuna, rates; see `MakeSearcher`
    make(out, address, jobs, threads) -> Executor   local, ray; see `MakeExecutor`

Executors use one of two: `worker.make(job) -> Outcome` makes a job in the process that calls it; `process.Process(job)`
starts one of its own for it, which ends with its parent, however that ends (`poll`, `stop`, `kill`), and which may take
further jobs (`takes`, `order`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

Request: TypeAlias = "Mapping[str, Any]"  # JSON-like; options as a user writes them, [base] included
Config: TypeAlias = "Mapping[str, Any]"  # JSON-like; what a run is made of, with every default filled in
Result: TypeAlias = "Mapping[str, Any]"  # JSON-like; what DONE holds

# in a run's folder, beside records.CONFIG and records.DONE
REQUEST, FAILED, LOG, MADE = "request.json", "FAILED", "log.txt", "made.jsonl"
SWEEP = "sweep.json"  # in OUT: the spec; it is there before the first job starts


@dataclass(frozen=True)
class Job:
    """One run to make. All of it can be pickled, and `as_dict` is JSON-like.

    Attributes:
        config: of the run.
        folder: OUT/runs/NAME-DIGEST, absolute; the digest is of the config alone.
        runner: what makes it: "package.module:function" or "path/to/file.py:function", of (config, folder) -> result.
        threads: CPU threads that it may use.
        options: what the runner takes by keyword and the result does not depend on: data_dir, checkpoint_seconds.
        attempt: 1, 2, ...: more than 1 after a worker was lost.
        cwd: the driver's; relative paths in the config, the options and the runner's reference start there.
    """

    config: Config
    folder: Path
    runner: str
    threads: int
    options: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1
    cwd: str = field(default_factory=os.getcwd)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder)}

    @classmethod
    def from_dict(cls, made: Mapping[str, Any]) -> Job:
        return cls(**{**made, "folder": Path(made["folder"])})


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: "done": the folder holds DONE; "failed": it raised, and the folder holds the traceback (`FAILED`);
            "lost": its worker went away (a kill, a node that died, no memory), and another attempt may do.
        detail: one line for the user, "" where there is nothing to say.
    """

    job: Job
    status: Literal["done", "failed", "lost"]
    detail: str = ""


class Executor(Protocol):
    """Where jobs run. One thread, the driver's, calls it.

    Attributes:
        threads: CPU threads of a job whose spec does not say how many.
    """

    threads: int

    def slots(self) -> int:
        """How many jobs can run at once now; a cluster's number may change."""
        ...

    def submit(self, job: Job) -> None:
        """Start a job; the driver keeps no more than ``slots`` under way."""
        ...

    def wait(self, timeout: float) -> Sequence[Outcome]:
        """The jobs that have ended since the last call; returns at once if there are any, else after ``timeout`` s."""
        ...

    def where(self, job: Job) -> str:
        """Where a job under way runs, in a word or two for the table: "pid 4711", a node; "" if it waits."""
        ...

    def close(self) -> None:
        """Stop what is under way (a run writes a checkpoint if it can) and leave no process behind."""
        ...


class MakeExecutor(Protocol):
    """`make` of an executor's module."""

    def __call__(self, out: Path, address: str | None, jobs: int | None, threads: int | None) -> Executor:
        """An executor.

        Args:
            out: the sweep's folder; every worker must see it under this path.
            address: --address; None where it was not given.
            jobs: --jobs: runs at once; None: as many as the CPUs give.
            threads: of a run, the most that the spec asks for; None: it says nothing, and the executor decides. What a
                job may use is its own `Job.threads`.

        Raises:
            LabError: it cannot be had (a package is missing, no cluster answers, `out` is not seen there).
        """
        ...


class Searcher(Protocol):
    """Which runs to make. A function of what it was told and of nothing else that a kill could lose.

    Before the first ``ask`` it is told of every run in OUT that is finished already (an earlier process made it), also
    of some that are none of its own: these it ignores. If it asks for a run that is finished, it is told at once.
    """

    def ask(self, room: int) -> Sequence[Request]:
        """At most ``room`` further runs; none: it waits for results, or is finished. Never one that it asked for."""
        ...

    def tell(self, request: Request, result: Result | None) -> None:
        """The result of a run, in any order; None: it failed, and is not tried again."""
        ...

    def finished(self) -> bool:
        """Whether ``ask`` will give nothing any more, whatever is told."""
        ...

    def total(self) -> int | None:
        """How many runs there are in all, as far as it is known now; None: it cannot be said."""
        ...


class MakeSearcher(Protocol):
    """`make` of a searcher's module."""

    def __call__(self, search: Mapping[str, Any], requests: Sequence[Request], begun: Sequence[Request]) -> Searcher:
        """A searcher.

        Args:
            search: the table [search] of the spec, `kind` included; "objective" and "mode" may stand there: see
                `objective.Objective.of(search)`, which checks them and turns results into figures.
            requests: the runs of [grid] and [[runs]], without what is searched for: each with [base] and, where the
                grid has them, its seed. At least one; with neither [grid] nor [[runs]] it is [base] alone.
            begun: requests (complete, the searched axes included) that an earlier process began and did not finish,
                failed ones too: a searcher that would not ask for them again by itself asks for them first.

        Raises:
            UsageError: the key of [search] that is wrong, and what is allowed; a request that has a searched axis.
        """
        ...
