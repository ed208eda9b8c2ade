"""Jobs on a Ray cluster, or on a Ray of this machine's own.

    layerpace sweep SPEC --executor ray --address HOST:6379     # of `ray start --head`; "auto" on a node of the cluster
    layerpace sweep SPEC --executor ray                         # $RAY_ADDRESS, or else a cluster of this machine alone

Each job is a Ray task that starts the same process as the local executor does and waits for it. Ray chooses the node
and finds out that one died; what is finished, and what is to be made again, the run folders say (Ray retries nothing).
So every node must see OUT under the same path, and have the same layerpace and the same data.

What ends when: a driver that is killed takes its tasks with it, since Ray ends the workers of a job whose driver is
gone, and a worker's process ends with the worker. A node that loses the cluster ends its Ray, and its runs with it: a
run that is made again elsewhere has no second writer.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LabError, UsageError
from ..extras import require
from ..records import DONE
from .connecting import connect, reason
from .orphans import Guard
from .protocol import Job, Outcome
from .remote import PLACE, about, describe, make_job
from .worker import GRACE

PATIENCE = 60.0  # seconds for a node to answer
SHARED = "LAYERPACE_"  # variables of the environment that workers get from the driver


def make(out: Path, address: str | None, jobs: int | None, threads: int | None) -> Cluster:
    """An executor on Ray; see `protocol.MakeExecutor`."""
    require(["ray"], "--executor ray", "ray")
    return Cluster(out.resolve(), address or os.environ.get("RAY_ADDRESS") or "local", jobs, threads or 1)


class Cluster:
    """A connection to a Ray cluster, as long as it is open.

    Args:
        out: the sweep's folder.
        address: of the cluster's head, "auto" for the one that this machine belongs to; "local": start one here.
        jobs: at once; None: as many as the cluster's CPUs give.
        threads: of a job whose spec does not say how many.

    Raises:
        LabError: no cluster answers, a node does not see ``out``, or has another layerpace.
        UsageError: no node is large enough, or the address is none.
    """

    def __init__(self, out: Path, address: str, jobs: int | None, threads: int) -> None:
        self.out, self.jobs, self.threads = out, jobs, threads
        self.running: dict[Any, Job] = {}
        self.gpus = False  # whether jobs want one
        self.guard: Guard | None = None
        self.ray = connect(address, None if jobs is None else jobs * threads)
        try:
            if address == "local":
                self.guard = Guard()
            self.task = self.ray.remote(make_job)
            self.probe()
        except BaseException:
            self.disconnect()
            raise

    def nodes(self) -> list[Mapping[str, Any]]:
        """The nodes that can run a job."""
        found = [node for node in self.ray.nodes() if node["Alive"]]
        return [node for node in found if node["Resources"].get("CPU", 0) >= self.threads]

    def probe(self) -> None:
        """Find out now, and not after hours, which node cannot do it."""
        nodes = self.nodes()
        if not nodes:
            most = max((node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"]), default=0)
            raise UsageError(f"no node of the cluster has the {self.threads} CPUs of a run; the largest has {most:g}")
        mark = self.out / f".ray-{os.getpid()}"
        mark.write_text("layerpace")
        try:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            look = self.ray.remote(describe)
            there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
            options = {"num_cpus": 0, "max_retries": 0}
            asked = [look.options(**options, scheduling_strategy=place).remote(str(mark)) for place in there]
            found = [self.check(node["NodeManagerHostname"], one) for node, one in zip(nodes, asked, strict=True)]
            if not any(found):
                raise LabError("every node of the cluster has died just now")
        finally:
            mark.unlink(missing_ok=True)

    def check(self, name: str, reference: Any) -> bool:
        """What one node says of itself; False: it has died, which Ray notices after some seconds."""
        errors = self.ray.exceptions
        try:
            said = self.ray.get(reference, timeout=PATIENCE)
        except errors.GetTimeoutError:
            raise LabError(f"node {name} has not answered for {PATIENCE:g} s") from None
        except (errors.TaskUnschedulableError, errors.NodeDiedError):
            return False
        except errors.RayError as error:
            raise LabError(f"node {name}: {reason(error)}") from None
        if not said.pop("sees"):
            raise LabError(f"node {name} does not see {self.out}: OUT must be a folder that all nodes share")
        for what, here in about().items():
            if said[what] != here:
                raise LabError(f"node {name} has {what} {said[what]}, this machine {here}: they must be the same")
        return True

    def slots(self) -> int:
        found = 0
        for node in self.nodes():
            room = int(node["Resources"]["CPU"] // self.threads)
            found += min(room, int(node["Resources"].get("GPU", 0))) if self.gpus else room
        return found if self.jobs is None else min(found, self.jobs)

    def submit(self, job: Job) -> None:
        gpu = str(job.config.get("device", "")).startswith("cuda")
        if gpu and not any(node["Resources"].get("GPU") for node in self.nodes()):
            raise UsageError(f"device = {job.config['device']!r}: no node of the cluster has a GPU that Ray knows of")
        self.gpus = self.gpus or gpu
        (job.folder / PLACE).unlink(missing_ok=True)
        # A run goes on with the threads that it began with, on a smaller cluster too: Ray would wait for such a node.
        able = [node["Resources"] for node in self.nodes() if not gpu or node["Resources"].get("GPU")]
        cpus = min([job.threads, max((int(found["CPU"]) for found in able), default=self.threads)])
        environment = {name: value for name, value in os.environ.items() if name.startswith(SHARED)}
        task = self.task.options(
            num_cpus=cpus, num_gpus=int(gpu), max_retries=0, scheduling_strategy="SPREAD", name=job.folder.name
        )
        self.running[task.remote(job.as_dict(), str(self.out), environment)] = job

    def wait(self, timeout: float) -> Sequence[Outcome]:
        if not self.running:
            time.sleep(timeout)
            return []
        references = list(self.running)
        ended, _ = self.ray.wait(references, num_returns=1, timeout=timeout)
        if ended:
            ended, _ = self.ray.wait(references, num_returns=len(references), timeout=0)
        return [self.outcome(reference) for reference in ended]

    def outcome(self, reference: Any) -> Outcome:
        job = self.running.pop(reference)
        status: Any
        try:
            status, detail = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            status, detail = "lost", reason(error)
            (job.folder / PLACE).unlink(missing_ok=True)
        if status == "lost" and (job.folder / DONE).exists():  # it died after its last act
            status, detail = "done", ""
        return Outcome(job, status, detail)

    def where(self, job: Job) -> str:
        try:
            return (job.folder / PLACE).read_text()
        except OSError:
            return ""

    def close(self) -> None:
        try:
            left = list(self.running)
            for force, patience in ((False, GRACE + 5), (True, 5.0)):
                for reference in left:
                    with contextlib.suppress(Exception):  # of a task that has ended just now
                        self.ray.cancel(reference, force=force)
                if left:
                    _, left = self.ray.wait(left, num_returns=len(left), timeout=patience)
            for job in self.running.values():
                (job.folder / PLACE).unlink(missing_ok=True)
            self.running.clear()
        finally:
            self.disconnect()

    def disconnect(self) -> None:
        self.ray.shutdown()
        if self.guard is not None:
            self.guard.release()
