"""A sweep on Ray: a node that dies, a driver that is killed, and what is said about a cluster that will not do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layerpace.lab.errors import LabError, UsageError
from layerpace.lab.stopping import StopSignals
from layerpace.lab.sweep import ray as on_ray
from layerpace.lab.sweep import remote
from layerpace.lab.sweep.driver import Driver, Run, Runs, Silent
from layerpace.lab.sweep.grid import Grid
from layerpace.lab.sweep.protocol import SWEEP, Job, Outcome
from layerpace.lab.sweep.runner import Runner

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before ray is imported
os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "^"
pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
slow = pytest.mark.slow
STORE = 80 * 2**20
WORKER = "layerpace.lab.sweep.worker"

RUNNER = """
import os, signal, time
from pathlib import Path

def run(config, folder):
    def say(what):
        with open(config["log"], "a") as file:
            file.write(f"{what} {config['n']}\\n")
    say("begin")
    if config.get("raises"):
        raise ValueError("as asked")
    end = time.monotonic() + config["sleep"]
    try:
        while time.monotonic() < end and not (config["n"] > 1 and os.path.exists(config["log"] + ".go")):
            time.sleep(0.05)
    except BaseException as error:
        say(type(error).__name__)
        raise
    say("end")
    return {"test_score": config["n"], "threads": os.environ["OMP_NUM_THREADS"]}
"""

DRIVER = """
import json, sys
from pathlib import Path
from layerpace.lab.stopping import StopSignals
from layerpace.lab.sweep.driver import Driver, Run, Runs, Silent
from layerpace.lab.sweep.grid import Grid
from layerpace.lab.sweep.ray import make
from layerpace.lab.sweep.runner import Runner

address, requests = json.loads(sys.argv[1])
runs = Runs(Path("out"), Runner.of("runner.py:run"))
with StopSignals() as signals:
    Driver(runs, Grid(requests)).run(make(Path("out"), address, 2, 1), Silent(), signals)
"""


def until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What it gives once it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


def alive(processes: list[Any]) -> list[Any]:
    """Those that run still; the dead whom nobody has fetched do not."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def workers(folder: Path) -> list[Any]:
    """The worker processes of sweeps that were started in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if WORKER in process.cmdline() and Path(process.cwd()) == folder:
                found.append(process)
        except psutil.Error:
            continue
    return alive(found)


def beneath(number: int | None = None) -> list[Any]:
    return psutil.Process(number).children(recursive=True)


class Nodes:
    """A head without CPUs, and nodes with one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(), self.add()]
        self.dead: list[Any] = []

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE, include_dashboard=False)

    def kill(self, everything: bool = True) -> list[Any]:
        """SIGKILL to a node, or to what holds it together alone; the processes of the node are returned."""
        node = self.nodes.pop(0)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        lost = [raylet, *beneath(raylet.pid)]
        for process in lost if everything else [raylet]:
            process.kill()
        self.dead += lost
        return lost

    def close(self) -> None:
        left = [*beneath(), *self.dead]
        self.cluster.shutdown()
        for process in alive(left):
            process.kill()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a sweep, with a runner beside it."""
    (tmp_path / "runner.py").write_text(RUNNER)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / SWEEP).write_text("{}")
    return tmp_path / "out"


def requests(out: Path, count: int, sleep: float = 0.2) -> list[dict[str, Any]]:
    return [{"n": n, "sleep": sleep, "log": str(out / "log")} for n in range(count)]


def log(out: Path) -> Counter[str]:
    path = out / "log"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def finished(out: Path) -> set[int]:
    """Numbers of the runs whose folders hold DONE."""
    return {json.loads(path.read_text())["test_score"] for path in out.glob("runs/*/DONE")}


class Killer(Silent):
    """Kills a node once two runs are done and two others run."""

    def __init__(self, nodes: Nodes, out: Path) -> None:
        self.nodes, self.out = nodes, out
        self.killed: list[Any] = []
        self.before: set[int] = set()
        self.details: list[str] = []

    def tick(self) -> None:
        begun = log(self.out)["begin 2"] and log(self.out)["begin 3"]
        if not self.killed and begun and finished(self.out) == {0, 1}:
            self.killed = self.nodes.kill()
            self.before = finished(self.out)
            (self.out / "log.go").touch()  # the others need not wait any more

    def lost(self, run: Run, outcome: Outcome) -> None:
        self.details.append(outcome.detail)


@slow
def test_a_node_that_is_killed_costs_no_more_than_the_run_that_it_had(nodes: Nodes, out: Path) -> None:
    killer = Killer(nodes, out)
    asked = [{**request, "sleep": 0.1 if request["n"] < 2 else 120.0} for request in requests(out, 4)]
    driver = Driver(Runs(out, Runner.of("runner.py:run")), Grid(asked))
    driver.run(on_ray.make(out, nodes.address, None, None), killer, StopSignals())
    assert finished(out) == set(range(4))
    assert [run.status for run in driver.runs] == ["done"] * 4
    lost = [run for run in driver.runs if run.attempt > 1]
    assert len(killer.details) == 1 and len(lost) == 1 and lost[0].made.config["n"] not in killer.before
    ends = {n: log(out)[f"end {n}"] for n in range(4)}
    assert ends == dict.fromkeys(range(4), 1)
    assert all(log(out)[f"begin {n}"] == 1 for n in killer.before) and killer.before == {0, 1}
    assert killer.killed and until(lambda: not alive(killer.killed), 30)
    assert not workers(out.parent) and not list(out.glob("runs/*/.place")) and not list(out.glob(".ray-*"))
    nodes.nodes.append(nodes.add())


@slow
def test_a_driver_that_is_killed_leaves_no_run_behind_and_is_gone_on_with(nodes: Nodes, out: Path) -> None:
    def drive(sleep: float) -> subprocess.Popen[bytes]:
        asked = [{**request, "sleep": sleep if request["n"] > 1 else 0.1} for request in requests(out, 4)]
        return subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps([nodes.address, asked])])

    driver = drive(30.0)
    try:
        until(lambda: finished(out) == {0, 1} and log(out)["begin 2"] and log(out)["begin 3"])
        left = [*alive(beneath(driver.pid)), *workers(out.parent)]
        assert len(workers(out.parent)) == 2
    finally:
        driver.kill()
        driver.wait()
    until(lambda: not alive(left) and not workers(out.parent), 30)
    before = log(out)
    time.sleep(1)
    assert log(out) == before and finished(out) == {0, 1}  # Ray starts nothing again
    again = drive(30.0)
    try:
        until(lambda: log(out)["begin 2"] + log(out)["begin 3"] >= 3)
        assert log(out)["begin 0"] == log(out)["begin 1"] == 1
    finally:
        again.terminate()
        again.wait(90)
    # the runs are told to stop, in good order
    assert sum(log(out)[f"Stopped {n}"] for n in (2, 3)) >= 1
    assert not workers(out.parent)


@slow
def test_a_run_ends_where_ray_alone_has_died(nodes: Nodes, out: Path) -> None:
    """Ray lets the task go on: it might have gone on for hours beside the second attempt."""
    executor = on_ray.make(out, nodes.address, None, None)
    try:
        for request in requests(out, 2, sleep=60.0):
            job = Job(request, out / "runs" / f"r{request['n']}", "runner.py:run", 1)
            job.folder.mkdir(parents=True)
            executor.submit(job)
        until(lambda: log(out)["begin 0"] and log(out)["begin 1"])
        lost = [process for process in nodes.kill(everything=False) if "Agent" not in process.name()]
        (outcome,) = until(lambda: executor.wait(1.0), 60)
        assert outcome.status == "lost" and "died" in outcome.detail.lower() and len(outcome.detail) <= 200
        until(lambda: not alive(lost), 30)
        assert len(workers(out.parent)) == 1
    finally:
        executor.close()
        nodes.nodes.append(nodes.add())
    assert not workers(out.parent)


@slow
def test_failures_and_threads_on_a_cluster(nodes: Nodes, out: Path) -> None:
    executor = on_ray.make(out, nodes.address, None, None)
    try:
        assert executor.slots() == 2 and executor.threads == 1
        # the first was begun elsewhere, with more threads than a node here has CPUs: Ray must not wait for a larger one
        jobs = [Job({**request, "raises": n == 1}, out / "runs" / f"r{n}", "runner.py:run", (3, 1)[n])
                for n, request in enumerate(requests(out, 2))]  # fmt: skip
        for job in jobs:
            job.folder.mkdir(parents=True)
            executor.submit(job)
        outcomes = []
        until(lambda: outcomes.extend(executor.wait(1.0)) or len(outcomes) == 2)
        found = {outcome.job.folder.name: (outcome.status, outcome.detail) for outcome in outcomes}
        assert found == {"r0": ("done", ""), "r1": ("failed", "ValueError: as asked")}
        assert "Traceback" in (out / "runs" / "r1" / "FAILED").read_text()
        assert json.loads((out / "runs" / "r0" / "DONE").read_text())["threads"] == "3"
        assert executor.wait(0.01) == []
        executor.threads = 3
        with pytest.raises(UsageError, match="no node of the cluster has the 3 CPUs of a run; the largest has 1"):
            executor.probe()
    finally:
        executor.close()


@slow
def test_a_node_that_does_not_fit_is_named(nodes: Nodes, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = remote.about()
    monkeypatch.setattr(on_ray, "about", lambda: {**here, "layerpace": "0.0.0"})
    with pytest.raises(
        LabError, match=rf"has layerpace {here['layerpace']}, this machine 0.0.0: they must be the same"
    ):
        on_ray.make(out, nodes.address, None, None)
    assert not list(out.glob(".ray-*"))


@slow
def test_a_ray_of_this_machine_ends_with_its_driver(out: Path) -> None:
    asked = requests(out, 2, sleep=60.0)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(["local", asked])], stderr=subprocess.DEVNULL, start_new_session=True
    )
    started: list[Any] = []
    try:
        until(lambda: log(out)["begin 0"] or log(out)["begin 1"])
        started = beneath(driver.pid)
        assert {"raylet", "gcs_server"} <= {process.name() for process in started}
        driver.kill()
        driver.wait()
        until(lambda: not alive(started) and not workers(out.parent), 30)
    finally:
        for process in alive([*started, *(beneath(driver.pid) if driver.poll() is None else [])]):
            process.kill()
        driver.kill()
        driver.wait()


def test_a_folder_that_a_node_does_not_see_is_said(tmp_path: Path) -> None:
    job = Job({}, tmp_path / "runs" / "r", "runner.py:run", 1)
    status, detail = remote.make_job(job.as_dict(), str(tmp_path), {})
    assert status == "lost" and f"does not see {tmp_path}: OUT must be a folder that all nodes share" in detail


def test_an_address_where_nobody_listens_is_said_at_once(out: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        port = held.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(LabError, match=f"--address 127.0.0.1:{port}: Connection refused"):
            on_ray.make(out, f"127.0.0.1:{port}", None, None)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["here", "host:", ":6379", "host:port", "host:99999", "ray://host:10001"])
def test_an_address_that_is_none_is_said(out: Path, address: str) -> None:
    with pytest.raises(UsageError, match=f"--address {address}: write HOST:PORT"):
        on_ray.make(out, address, None, None)


def test_without_ray_one_line_says_what_to_install(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"--executor ray needs ray: pip install 'layerpace\[ray\]'"):
        on_ray.make(out, None, None, None)
