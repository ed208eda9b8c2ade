"""Each library has what it was given: nan left out, infinity as it can take it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import layerpace as lp
from layerpace.monitors import sinks
from layerpace.monitors.sinks import mlflow

# Values, step and time.
LOGGED = [
    ({"weight_norm/blocks.0.qkv.weight[0]": 1.5, "grad_norm/b": math.nan, "loss": 0.25}, 10, 1.7e9),
    ({"weight_norm/blocks.0.qkv.weight[0]": 2.5, "grad_norm/b": math.inf, "loss": 0.125}, 20, 1.7e9 + 60),
]


def log_all(sink: Any) -> None:
    for values, step, time in LOGGED:
        sinks.log(sink, values, step, time)
    sinks.flush(sink)
    sinks.close(sink)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_all(sinks.TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()

    def read(tag: str) -> list[tuple[float, int, float]]:
        return [(event.value, event.step, event.wall_time) for event in events.Scalars(tag)]

    assert read("weight_norm/blocks.0.qkv.weight[0]") == [(1.5, 10, 1.7e9), (2.5, 20, 1.7e9 + 60)]
    assert read("grad_norm/b") == [(math.inf, 20, 1.7e9 + 60)]
    assert read("loss") == [(0.25, 10, 1.7e9), (0.125, 20, 1.7e9 + 60)]


def test_a_writer_that_was_given_stays_open(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tmp_path)
    log_all(sinks.TensorBoard(writer=writer))
    writer.add_scalar("after", 1.0)
    writer.close()


def test_tensorboard_writes_into_the_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.chdir(tmp_path)

    def events(path: Path) -> int:
        return len(list(path.glob("events.*")))

    def train(sink: Any, **options: Any) -> lp.Monitor:
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with lp.Monitor(model, optimizer, every=1, sinks=[sink], **options) as monitor:
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        return monitor

    train("tensorboard", out=tmp_path / "one")
    assert events(tmp_path / "one") == 1 and not (tmp_path / "runs").exists()
    automatic = train("tensorboard")
    assert automatic.path is not None and events(automatic.path) == 1 and len(list((tmp_path / "runs").iterdir())) == 1
    train(sinks.TensorBoard(tmp_path / "elsewhere"), out=tmp_path / "two")
    assert events(tmp_path / "elsewhere") == 1 and events(tmp_path / "two") == 0
    with SummaryWriter(tmp_path / "given") as writer:
        train(writer, out=tmp_path / "three")
        writer.add_scalar("after", 1.0)
    assert events(tmp_path / "given") == 1 and events(tmp_path / "three") == 0


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="test", mode="offline", dir=str(tmp_path))
    run.log({"own": 1.0})
    log_all(sinks.WandB(run))
    run.log({"own": 2.0})  # the run goes on, and its own steps were not disturbed
    assert dict(run.summary)["weight_norm/blocks.0.qkv.weight[0]"] == 2.5
    assert dict(run.summary)["optimizer_step"] == 20 and dict(run.summary)["own"] == 2.0
    assert math.isinf(float(dict(run.summary)["grad_norm/b"]))
    assert sinks.WandB().run is run
    run.finish()
    own = sinks.WandB(project="test", mode="offline", dir=str(tmp_path))
    log_all(own)
    assert wandb.run is None
    with pytest.raises(TypeError, match="project"):
        sinks.WandB(run, project="test")


def test_trackio(tmp_path: Path) -> None:
    """In a process of its own: trackio reads its folder from the environment when it is imported."""
    pytest.importorskip("trackio")
    program = f"""
import math, trackio
from layerpace.monitors import sinks
sink = sinks.Trackio("test", name="one")
for values, step, _ in {LOGGED!r}:
    sinks.log(sink, values, step)
sinks.close(sink)
from trackio.sqlite_storage import SQLiteStorage
for log in SQLiteStorage.get_logs("test", "one"):
    print([log["step"], log["weight_norm/blocks.0.qkv.weight[0]"], log.get("grad_norm/b"), log["loss"]])
"""
    program = program.replace("nan,", "math.nan,").replace("inf,", "math.inf,")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert [line for line in done.stdout.splitlines() if line[0] == "["] == [
        "[10, 1.5, None, 0.25]",
        "[20, 2.5, inf, 0.125]",
    ]


def test_mlflow(tmp_path: Path) -> None:
    library = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sink = sinks.MLflow(experiment="test", run_name="one", tracking_uri=uri)
    sink.log({f"weight_norm/{k}": float(k) for k in range(2500)}, 1)
    log_all(sink)
    client = library.MlflowClient(uri)
    run = client.get_run(sink.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "one"
    assert run.data.metrics["weight_norm/2499"] == 2499
    history = client.get_metric_history(sink.run_id, "weight_norm/blocks.0.qkv.weight_0_")
    assert [(m.value, m.step, m.timestamp) for m in history] == [
        (1.5, 10, 1700000000000),
        (2.5, 20, 1700000060000),
    ]
    assert [m.value for m in client.get_metric_history(sink.run_id, "grad_norm/b")] == [sys.float_info.max]
    sink.log({"w_0_": 1.0, "w[0]": 2.0}, 40)  # names that MLflow would take for one another
    assert client.get_run(sink.run_id).data.metrics["w_0__2"] == 2
    other = sinks.MLflow(sink.run_id, tracking_uri=uri)
    other.log({"more": 1.0}, 30)
    assert client.get_run(sink.run_id).data.metrics["more"] == 1


NAMES = [
    "a",
    "a.b/c-d e_f",
    "w[0]",
    "w[1]",
    "w_0_",
    "a//b",
    "a/./b",
    "../a",
    "..a",
    "/a",
    "a/",
    ".",
    "..",
    "é",
    "x" * 300,
]


def test_names_for_mlflow() -> None:
    allowed = [mlflow.allowed(name) for name in NAMES]
    assert [mlflow.allowed(name) for name in allowed] == allowed
    assert allowed[:5] == ["a", "a.b/c-d e_f", "w_0_", "w_1_", "w_0_"]
    assert all(0 < len(name) <= 250 and not set(name) & set("[]:") for name in allowed)


def test_mlflow_takes_these_names() -> None:
    pytest.importorskip("mlflow")
    from mlflow.utils.validation import _validate_metric

    for name in NAMES:
        _validate_metric(mlflow.allowed(name), 1.0, 0, 0)
