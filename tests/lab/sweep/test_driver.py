"""Which runs a driver makes, how often, and what it leaves, without any process."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from layerpace.lab.errors import LabError, Stopped
from layerpace.lab.records import CONFIG, DONE, Lock
from layerpace.lab.stopping import StopSignals
from layerpace.lab.sweep import rates, worker
from layerpace.lab.sweep.driver import Driver, Silent, begin
from layerpace.lab.sweep.grid import Grid
from layerpace.lab.sweep.protocol import FAILED, REQUEST, Job, Outcome, Request, Searcher
from layerpace.lab.sweep.runner import Runner
from layerpace.lab.sweep.runs import Run, Runs
from layerpace.lab.sweep.spec import check

from .helpers import Climb, Here, Losing, Stopping, said, write_runner


class Setting:
    """A folder with a runner and its log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.out = folder, folder / "log", folder / "out"
        self.runner = Runner.of(write_runner(folder))

    def requests(self, *numbers: int, **more: Any) -> list[Request]:
        return [{"n": n, "log": str(self.log), **more} for n in numbers]

    def drive(
        self, searcher: Searcher | Sequence[Request], executor: Here | None = None, reporter: Any = None, **options: Any
    ) -> Driver:
        made = Grid(searcher) if isinstance(searcher, list) else searcher
        driver = begin(Runs(self.out, self.runner), lambda begun: made, not isinstance(made, Grid), 2, False)  # type: ignore[arg-type,return-value]
        vars(driver).update(options)
        driver.run(executor or Here(), reporter or Silent(), StopSignals())
        return driver


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def statuses(driver: Driver) -> list[str]:
    return [run.status for run in driver.runs]


def test_every_run_is_made_once_also_by_whoever_starts_again(setting: Setting) -> None:
    executor = Here(slots=2)
    driver = setting.drive(setting.requests(1, 2, 3), executor)
    assert statuses(driver) == ["done"] * 3 and executor.closed and executor.most == 2
    assert said(setting.log, "begin") == [1, 2, 3]
    again = setting.drive(setting.requests(3, 4, 1))
    assert statuses(again) == ["before", "done", "before"]
    assert said(setting.log, "begin") == [1, 2, 3, 4]
    assert [run.result["test_score"] for run in again.runs if run.result] == [0.3, 0.4, 0.1]


def test_no_more_runs_are_under_way_than_the_executor_has_room_for(setting: Setting) -> None:
    executor = Here(slots=2)
    driver = Driver(Runs(setting.out, setting.runner), Grid(setting.requests(1, 2, 3, 4, 5)))
    driver.take(5)  # as the command does, to check all of them first
    driver.run(executor, Silent(), StopSignals())
    assert executor.most == 2 and statuses(driver) == ["done"] * 5


def test_what_a_run_folder_holds(setting: Setting) -> None:
    driver = setting.drive(setting.requests(1))
    (run,) = driver.runs
    assert json.loads((run.folder / REQUEST).read_text()) == setting.requests(1)[0]
    assert json.loads((run.folder / CONFIG).read_text()) == run.made.config
    assert json.loads((run.folder / DONE).read_text())["test_score"] == 0.1
    assert run.folder.parent == setting.out / "runs" and not (run.folder / FAILED).exists()


def test_equal_runs_are_one(setting: Setting) -> None:
    driver = setting.drive(setting.requests(1, 2, 1, 1))
    assert len(driver.runs) == 2 and driver.equal == 2
    assert said(setting.log, "begin") == [1, 2]


def test_a_failure_keeps_its_traceback_stops_nothing_and_is_tried_again(setting: Setting) -> None:
    requests = setting.requests(1, 2, 3, raises=2)
    driver = setting.drive(requests)
    assert statuses(driver) == ["done", "failed", "done"]
    failed = next(run for run in driver.runs if run.status == "failed")
    assert failed.error == "ValueError: run 2 was to fail" and failed.result is None
    trace = (failed.folder / FAILED).read_text()
    assert "Traceback" in trace and "runner.py" in trace and "was to fail" in trace
    kept = setting.drive(requests, keep_failed=True)
    assert statuses(kept) == ["before", "failed", "before"] and said(setting.log, "begin") == [1, 2, 3]
    (setting.folder / "log").unlink()
    assert statuses(setting.drive(requests)) == ["before", "failed", "before"]
    assert said(setting.log, "begin") == [2]


def test_a_run_that_succeeds_in_the_end_is_no_failure_any_more(setting: Setting) -> None:
    (run,) = setting.drive(setting.requests(1), Losing(times=9)).runs
    assert (run.folder / FAILED).exists()
    setting.drive(setting.requests(1))
    assert (run.folder / DONE).exists() and not (run.folder / FAILED).exists()


def test_a_lost_run_is_tried_again_so_often_and_then_has_failed(setting: Setting) -> None:
    executor = Losing(times=2)
    assert statuses(setting.drive(setting.requests(1), executor)) == ["done"]
    assert executor.attempts == [1, 2, 3]
    executor = Losing(times=9)
    driver = setting.drive(setting.requests(2, 3), executor, retries=1)
    assert statuses(driver) == ["failed", "failed"] and sorted(executor.attempts) == [1, 1, 2, 2]
    (first, _) = driver.runs
    assert "lost 2 times: as asked" in (first.folder / FAILED).read_text()


def test_several_drivers_use_one_executor_until_an_error_closes_it(setting: Setting) -> None:
    def drive(executor: Here, *numbers: int) -> None:
        driver = Driver(Runs(setting.out, setting.runner), Grid(setting.requests(*numbers)))
        driver.run(executor, Silent(), StopSignals(), close=False)

    executor = Here()
    drive(executor, 1, 2)
    drive(executor, 3)
    assert not executor.closed and said(setting.log, "begin") == [1, 2, 3]
    stopping = Stopping()
    with pytest.raises(Stopped):
        drive(stopping, 4)
    assert stopping.closed


def test_an_executor_that_says_done_without_DONE_is_not_believed(setting: Setting) -> None:
    class Liar(Here):
        def end(self, job: Job) -> Outcome:
            return Outcome(job, "done")

    (run,) = setting.drive(setting.requests(1), Liar(), retries=0).runs
    assert run.status == "failed" and "there is no" in run.error


def test_a_stop_closes_the_executor_and_the_next_start_goes_on(setting: Setting) -> None:
    executor = Stopping()
    with pytest.raises(Stopped):
        setting.drive(setting.requests(1, 2), executor)
    assert executor.closed
    assert statuses(setting.drive(setting.requests(1, 2))) == ["done", "done"]


def test_a_signal_ends_the_sweep_between_two_looks(setting: Setting) -> None:
    signals = StopSignals()

    class Signalled(Here):
        def end(self, job: Job) -> Outcome:
            signals.handle(15, None)
            return super().end(job)

    executor = Signalled(slots=1)
    driver = Driver(Runs(setting.out, setting.runner), Grid(setting.requests(1, 2)))
    with pytest.raises(Stopped) as stop:
        driver.run(executor, Silent(), signals)
    assert stop.value.signum == 15 and executor.closed and said(setting.log, "end") == [1]


def test_a_search_is_told_of_what_earlier_processes_made(setting: Setting) -> None:
    base = setting.requests(0)[0]
    setting.drive(Climb(base))
    assert said(setting.log, "end") == [1, 2, 3, 4, 5]
    (third,) = (path.parent for path in setting.out.glob(f"runs/*/{DONE}") if '"test_score": 0.3' in path.read_text())
    (third / DONE).unlink()
    again = Climb(base)
    begun: list[Request] = []

    def make(found: Sequence[Request]) -> Searcher:
        begun.extend(found)
        return again

    driver = begin(Runs(setting.out, setting.runner), make, True, 2, False)
    assert sorted(again.told) == [1, 2, 4, 5] and [request["n"] for request in begun] == [3]
    driver.run(Here(), Silent(), StopSignals())
    assert said(setting.log, "end") == [1, 2, 3, 4, 5, 3]
    assert [run.status for run in driver.runs] == ["before", "before", "done", "before", "before"]


def test_folders_of_other_sources_are_no_history(setting: Setting) -> None:
    base = setting.requests(0)[0]
    setting.drive(Climb(base))
    (setting.folder / "runner.py").write_text((setting.folder / "runner.py").read_text() + "\n# new\n")
    setting.runner = Runner.of(setting.runner.reference)
    (setting.out / "runs/half").mkdir()
    (setting.out / "runs/half" / REQUEST).write_text('{"n": 1')
    again = Climb(base)
    begin(Runs(setting.out, setting.runner), lambda begun: again, True, 2, False)
    assert again.told == {}


def test_the_search_for_rates_goes_to_the_best_one(tmp_path: Path) -> None:
    (tmp_path / "hill.py").write_text(
        "import math\ndef run(config, folder): return {'test_score': -abs(math.log(config['lr'] / 0.02))}\n"
    )
    runs = Runs(tmp_path / "out", Runner.of(f"{tmp_path}/hill.py:run"))
    spec = check({"runner": "hill.py:run", "search": {"kind": "rates", "refine": False}}, "hill", "hill.py")
    driver = begin(runs, lambda found: rates.make(spec.search, spec.requests, found), True, 2, False)
    driver.run(Here(slots=4), Silent(), StopSignals())
    assert {round(run.made.request["lr"], 4) for run in runs} == {0.0041, 0.0123, 0.037, 0.1111}


def test_a_failed_run_is_told_to_the_search(setting: Setting) -> None:
    climb = Climb({**setting.requests(0)[0], "raises": 2})
    setting.drive(climb)
    assert climb.told[2] is None and climb.told[5] is not None


def test_a_search_that_waits_for_nothing_is_an_error_and_not_for_ever(setting: Setting) -> None:
    class Stuck(Climb):
        def ask(self, room: int) -> Sequence[Request]:
            return []

    with pytest.raises(LabError, match="waits for results"):
        setting.drive(Stuck({}))


def test_a_cluster_without_room_for_a_moment_is_waited_for(setting: Setting) -> None:
    class Shaky(Here):
        waits = 0

        def slots(self) -> int:
            return 0 if self.waits % 3 else 2

        def wait(self, timeout: float) -> Sequence[Outcome]:
            self.waits += 1
            return super().wait(timeout)

    executor = Shaky()
    setting.drive(Climb(setting.requests(0)[0]), executor)
    assert said(setting.log, "end") == [1, 2, 3, 4, 5] and executor.waits > 5


def test_a_run_that_is_gone_on_with_keeps_the_time_of_its_config(setting: Setting) -> None:
    (run,) = setting.drive(setting.requests(1, raises=1)).runs
    os.utime(run.folder / CONFIG, (1.7e9, 1.7e9))
    setting.drive(setting.requests(1, raises=1))
    assert said(setting.log, "begin") == [1, 1] and (run.folder / CONFIG).stat().st_mtime == 1.7e9


def test_a_DONE_that_cannot_be_read_is_named(setting: Setting) -> None:
    (run,) = setting.drive(setting.requests(1)).runs
    (run.folder / DONE).write_text("{")
    with pytest.raises(LabError, match=r"DONE cannot be read .* delete it"):
        setting.drive(setting.requests(1))


def test_a_run_of_two_requests_is_told_to_both(setting: Setting) -> None:
    told: list[Request] = []

    class Twice(Grid):
        def tell(self, request: Request, result: Any) -> None:
            told.append(request)

    setting.drive(Twice(setting.requests(1, 1)))
    assert len(told) == 2


def test_threads_are_the_share_unless_the_task_has_no_use_for_them(setting: Setting) -> None:
    def config(out: str, share: int, **request: Any) -> tuple[int, Any]:
        executor = Here()
        executor.threads = share
        executor.end = lambda job: Outcome(job, "failed")  # type: ignore[method-assign]
        runs = Runs(setting.folder / out, Runner.of("layerpace.lab.single:run"))
        driver = Driver(runs, Grid([{"data": "digits", **request}]))
        driver.run(executor, Silent(), StopSignals())
        (run,) = driver.runs
        return run.threads, json.loads((run.folder / CONFIG).read_text())["threads"]

    assert config("a", 4) == (1, 1)  # digits: one thread is fastest
    assert config("b", 4, threads=2) == (2, 2)
    folder = next((setting.folder / "a/runs").iterdir())
    begun = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**begun, "threads": 3}))
    assert config("a", 4) == (3, 3)  # it was begun so, and its bits depend on it


def test_a_result_that_is_none_is_a_failure_and_a_finished_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import sys\ndef run(config, folder): return [1]\ndef leave(c, f): sys.exit(4)\n")
    for name, error in (("run", "TypeError: .*bad.py:run returned list, not a dict"), ("leave", "SystemExit: 4")):
        job = Job({}, tmp_path / name, f"{tmp_path}/bad.py:{name}", 1)
        outcome = worker.make(job)
        assert outcome.status == "failed"
        assert re.match(error, outcome.detail)
        assert not (job.folder / DONE).exists()
        (job.folder / DONE).write_text("{}")
        assert worker.make(job).status == "done" and (job.folder / DONE).read_text() == "{}"


def test_a_folder_has_one_writer(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = setting.drive(setting.requests(1)).runs
    (run.folder / DONE).unlink()
    job = Job(run.made.config, run.folder, setting.runner.reference, 1)
    held = worker.held
    monkeypatch.setattr(worker, "held", lambda path: held(path, patience=0.2))
    lock = Lock(run.folder / worker.WORKER_LOCK)
    assert worker.make(job).status == "lost"
    lock.release()
    assert worker.make(job).status == "done"


def test_a_runner_gets_the_options_that_it_takes(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def resolve(request):\n    return {'n': request['n']}\n"
        "def run(config, folder, *, data_dir=None, signals=None):\n"
        "    return {'data_dir': data_dir, 'signals': signals is not None}\n"
    )
    runs = Runs(tmp_path / "out", Runner.of(f"{tmp_path}/own.py:run"))
    driver = Driver(runs, Grid([{"n": 1, "data_dir": "d", "unused": 3}]))
    driver.run(Here(), Silent(), StopSignals())
    (run,) = driver.runs
    assert run.result == {"data_dir": "d", "signals": True} and run.made.config == {"n": 1}


def test_a_reporter_hears_of_every_end(setting: Setting) -> None:
    heard: list[str] = []

    class Listening(Silent):
        def ended(self, run: Run) -> None:
            heard.append(f"{run.status} {run.made.request['n']}")

        def lost(self, run: Run, outcome: Outcome) -> None:
            heard.append(f"lost {run.made.request['n']}")

    setting.drive(setting.requests(1), Losing(times=1), reporter=Listening())
    assert heard == ["lost 1", "done 1"]
