"""One training from its config: what `layerpace train` and sweeps make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from layerpace import cli
from layerpace.lab.batches import split
from layerpace.lab.errors import LabError, Stopped, UsageError
from layerpace.lab.records import Lock
from layerpace.lab.schedule import scheduler
from layerpace.lab.single import resolve, run
from layerpace.lab.single_folder import opened
from layerpace.lab.stopping import StopSignals
from layerpace.lab.tasks import from_reference
from layerpace.lab.training import Run
from layerpace.monitors.folder import load

OUT = Path("out")
TASK = """
import torch
from torch import nn
from layerpace.lab import Dataset, Task

def task():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 6, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    data = Dataset(inputs[:64], targets[:64], inputs[64:], targets[64:], classes=2)
    model = lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return Task("half", data, model, batch_size=16, steps=12, eval_every=4, target=0.6, threads=1)
"""


@pytest.fixture(autouse=True)
def own_task(own_folder: None) -> None:
    Path("half.py").write_text(TASK)


def request_of(**options: Any) -> dict[str, Any]:
    return {"task": "half.py:task", "method": "lamb", "lr": 0.01, **options}


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path / "weights.pt", weights_only=True)
    return found


class StopAt(StopSignals):
    """Pretends that a signal arrives at the n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def received(self) -> int | None:  # type: ignore[override]
        self.looks -= 1
        return 15 if self.looks < 0 else None

    @received.setter
    def received(self, value: int | None) -> None: ...


# The config


def test_a_config_has_every_default_and_resolves_to_itself() -> None:
    config = resolve(request_of())
    assert config["steps"] == 12 and config["batch_size"] == 16 and config["eval_every"] == 4
    assert config["schedule"] == "constant" and config["target"] == 0.6 and config["threads"] == 1
    assert config["name"] == "half" and len(config["fingerprint"]) == 16
    assert json.loads(json.dumps(config)) == config == resolve(config)
    assert not {"data_dir", "checkpoint_seconds", "out"} & config.keys()


def test_a_built_in_task_has_its_data_and_model_in_the_config() -> None:
    config = resolve({"method": "layca"})
    assert (config["data"], config["model"], config["task"]) == ("digits", "digits-cnn", None)
    assert config["lr"] == 3**-2.5


def test_a_rate_or_a_schedule_is_the_same_wherever_it_is_written() -> None:
    expected = resolve(request_of(method="lamb:clip=1", lr=0.02, schedule="cosine"))
    assert resolve(request_of(method="lamb:lr=0.02,clip=1,schedule=cosine", lr=None)) == expected
    assert resolve(request_of(method="lamb:schedule=cosine,lr=0.02,clip=1", lr=0.02, schedule="linear")) == expected


def test_what_does_not_change_the_result_is_not_in_the_config() -> None:
    assert resolve(request_of(checkpoint_seconds=3)) == resolve(request_of())


@pytest.mark.parametrize(
    "option",
    [
        {"lr": 0.02}, {"seed": 1}, {"steps": 13}, {"batch_size": 8}, {"schedule": "linear"}, {"dtype": "bf16"},
        {"eval_size": 3}, {"eval_every": 2}, {"record_every": 2}, {"validation": 0.25}, {"accumulate": 2},
        {"warmup": 2}, {"lr_scaling": "sqrt", "base_batch_size": 8}, {"method": "lars"}, {"method": "lamb:clip=1"},
    ],
)  # fmt: skip
def test_what_changes_the_result_is(option: dict[str, Any]) -> None:
    assert resolve(request_of(**option)) != resolve(request_of())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stepz": 3}, r"unknown option 'stepz' \(did you mean steps\?\)"),
        ({"steps": 0}, r"--steps 0: must be at least 1"),
        ({"steps": 2.5}, r"--steps 2\.5: must be a whole number"),
        ({"seed": True}, r"--seed True: must be a whole number"),
        ({"seed": None}, r"--seed: needs a value"),
        ({"lr": "fast"}, r"--lr 'fast': must be a number"),
        ({"lr": float("nan")}, r"--lr nan: must be a number"),
        ({"lr": -0.1}, r"--lr -0\.1: must be 0 or more"),
        ({"lr": None, "method": "lamb:lr=1/2"}, r"one training has one learning rate, got \[1\.0, 2\.0\]"),
        ({"method": "lamb:lr=0.5"}, r"one training has one learning rate, got \[0\.01, 0\.5\]"),
        ({"method": "lam"}, r"--method: unknown method 'lam' \(did you mean lamb\?\)"),
        ({"method": "lamb:eps=-1"}, r"--method.*eps"),
        ({"dtype": "fp8"}, r"--dtype fp8: choose from fp32, bf16"),
        ({"schedule": "step"}, r"--schedule step: choose from"),
        ({"schedule": "steps:0.2@80"}, r"--schedule steps:0\.2@80: shares of the steps must be in \(0, 1\)"),
        ({"method": "layca:alpha=2"}, r"--method layca:alpha=2: alpha must be in \[-1, 1\]"),
        ({"batch_size": 65}, r"--batch-size 65: must be 1 to 64"),
        ({"batch_size": 60, "validation": 0.25}, r"--batch-size 60: must be 1 to 48"),
        ({"validation": 1.0}, r"--validation 1\.0: must be at least 0 and less than 1"),
        ({"accumulate": 17}, r"--accumulate 17: must be 1 to 16"),
        ({"warmup": 12}, r"--warmup 12: must be 0 to 11"),
        ({"lr_scaling": "linear"}, r"--lr-scaling .* --base-batch-size"),
        ({"base_batch_size": 8}, r"--lr-scaling .* --base-batch-size"),
        ({"target": 60.0}, r"--target 60: an accuracy between 0 and 1"),
        ({"model": "mlp"}, r"leave out --data, --data-dir and --model"),
        ({"device": "gpu9"}, r"--device gpu9"),
        ({"task": "none.py:task"}, r"there is no file none\.py"),
    ],
)
def test_bad_requests(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(request_of(**option))


# The run


def test_a_run_writes_what_a_run_of_a_comparison_has() -> None:
    points: list[int] = []
    config = resolve(request_of())
    result = run(config, OUT, on_point=lambda step, score: points.append(step))
    assert points == [0, 4, 8, 12]
    assert json.loads((OUT / "DONE").read_text()) == result
    assert json.loads((OUT / "config.json").read_text()) == config
    assert result["status"] == "done" and 0 < result["test_score"] <= 1 and len(result["weights_sha256"]) == 64
    (recorded,) = load(OUT)
    assert recorded.settings["task"] == "half" and recorded.settings["method"] == "lamb"
    assert recorded.history.steps == [1, 4, 8, 12]


def test_steps_to_the_target_are_those_of_the_curve() -> None:
    result = run(resolve(request_of(steps=40, target=0.7, lr=0.05)), OUT)
    curve = [json.loads(line) for line in (OUT / "curve.jsonl").read_text().splitlines()]
    assert result["steps_to_target"] == next(row["step"] for row in curve if row["test_score"] >= 0.7) > 0
    assert run(resolve(request_of(target=1.0, lr=0.0)), Path("never"))["steps_to_target"] is None


def test_a_finished_run_is_not_repeated() -> None:
    config = resolve(request_of())
    first = run(config, OUT)
    points: list[int] = []
    assert run(config, OUT, on_point=lambda step, score: points.append(step)) == first
    assert points == []


@pytest.mark.parametrize("looks", [1, 4, 7, 11])
@pytest.mark.parametrize(
    "options", [{}, {"method": "percent-delta", "warmup": 6, "schedule": "cosine", "accumulate": 3}]
)
def test_a_stopped_run_goes_on_to_the_same_bits(looks: int, options: dict[str, Any]) -> None:
    config = resolve(request_of(**options))
    whole = run(config, Path("whole"))
    with pytest.raises(Stopped):
        run(config, OUT, signals=StopAt(looks))
    assert not (OUT / "DONE").exists()
    result = run(config, OUT)
    timed = ("step_ms", "optimizer_ms")
    assert {k: v for k, v in result.items() if k not in timed} == {k: v for k, v in whole.items() if k not in timed}
    assert (OUT / "curve.jsonl").read_bytes() == (Path("whole") / "curve.jsonl").read_bytes()


def test_a_folder_of_another_run_is_refused_and_kept() -> None:
    run(resolve(request_of()), OUT)
    before = (OUT / "DONE").read_bytes()
    with pytest.raises(UsageError, match=r"holds another run: lr was 0\.01, now 0\.02"):
        run(resolve(request_of(lr=0.02)), OUT)
    assert (OUT / "DONE").read_bytes() == before


def test_a_task_that_has_changed_is_refused() -> None:
    config = resolve(request_of())
    Path("half.py").write_text(TASK.replace("> 0)", "> 0.5)"))
    with pytest.raises(UsageError, match=r"is not the one of the run's config: source was .*fingerprint was"):
        run(config, OUT)
    assert not OUT.exists()


def test_accumulation_changes_rounding_alone() -> None:
    for parts, name in ((1, "whole"), (3, "parts"), (16, "single")):
        run(resolve(request_of(accumulate=parts, method="adam")), Path(name))
    whole, parts, single = (weights(Path(name)) for name in ("whole", "parts", "single"))
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(single[key], value, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(parts[key], value) for key, value in whole.items())


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4.0), ("sqrt", 2.0)])
def test_rates_follow_the_batch(scaling: str, factor: float) -> None:
    run(resolve(request_of(lr_scaling=scaling, base_batch_size=4)), Path("scaled"))
    run(resolve(request_of(lr=0.01 * factor)), Path("plain"))
    for key, value in weights(Path("plain")).items():
        assert torch.equal(weights(Path("scaled"))[key], value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0.01]),
        ("cosine", [0.25, 0.4375, 0.625, 0.8125, 1, 0.8535534, 0.5, 0.1464466, 0]),
    ],
)
def test_warm_up_rises_to_the_rate_before_the_schedule(name: str, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = scheduler(name, optimizer, steps=8, warmup=4)
    assert schedule is not None
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    if name != "cosine":
        expected = [0.25, 0.4375, 0.625, 0.8125, *expected[4:]]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_the_end_is_scored_on_the_training_set_without_augmentation() -> None:
    Path("noisy.py").write_text(
        TASK + "\ndef noisy():\n    from dataclasses import replace\n"
        "    return replace(task(), augment=lambda inputs, generator: torch.zeros_like(inputs))\n"
    )
    result = run(resolve(request_of(task="noisy.py:noisy", validation=0.25)), OUT)
    task = from_reference("noisy.py:noisy")
    train, _ = split(64, 16)
    net = task.model()
    net.load_state_dict(weights(OUT))
    with torch.no_grad():
        outputs, targets = net(task.data.train_inputs[train]), task.data.train_targets[train]
    assert result["train_score"] == pytest.approx((outputs.argmax(1) == targets).double().mean().item())
    assert result["train_loss_end"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, targets).item())


def test_of_many_training_examples_the_end_is_scored_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    evaluate = Run.evaluate

    def watched(self: Run, inputs: torch.Tensor, targets: torch.Tensor, indices: torch.Tensor) -> tuple[float, float]:
        if inputs is self.task.data.train_inputs:
            sizes.append(len(indices))
            assert indices.tolist() == list(range(0, 64, 8))
        return evaluate(self, inputs, targets, indices)

    monkeypatch.setattr(Run, "evaluate", watched)
    monkeypatch.setattr("layerpace.lab.training.TRAIN_EVAL", 8)
    run(resolve(request_of()), OUT)
    assert sizes == [8]  # once, at the end


def test_a_diverged_run_has_no_score_of_its_end() -> None:
    result = run(resolve(request_of(method="sgd", lr=1e30)), OUT)
    assert result["status"] == "diverged" and result["train_score"] is result["train_loss_end"] is None


def test_alpha_and_drops_reach_the_steps_of_a_run() -> None:
    config = resolve(request_of(method="layca:alpha=-0.5,schedule=steps:0.1@0.5", lr=0.1, record_every=4))
    assert config["method"] == "layca:alpha=-0.5" and config["schedule"] == "steps:0.1@0.5"
    run(config, OUT)
    (recorded,) = load(OUT)
    for name, multiplier in (("0.weight", 1.0), ("2.weight", 0.5**5)):
        steps, rates = recorded.history.series("learning_rate", name)
        expected = [0.1 * multiplier * (0.1 if step > 6 else 1) for step in steps]
        assert rates == pytest.approx(expected, rel=1e-6)


# The folder of `layerpace train`


def test_a_folder_is_opened_for_one_training() -> None:
    config = resolve(request_of())
    with opened(OUT, config, resume=False, overwrite=False):
        run(config, OUT)
        with pytest.raises(LabError, match="in use by another layerpace process"):
            Lock(OUT / ".lock")
    for resume, overwrite, other, message in (
        (False, False, config, r"--resume .* --overwrite .* --out"),
        (True, False, {**config, "seed": 1}, r"other settings \(seed was 0, now 1\)"),
    ):
        with pytest.raises(UsageError, match=message), opened(OUT, other, resume, overwrite):
            pass
    assert (OUT / "DONE").exists()
    (OUT / "mine.txt").write_text("x")
    with opened(OUT, {**config, "seed": 1}, resume=False, overwrite=True):
        assert sorted(path.name for path in OUT.iterdir()) == [".lock", "mine.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"kind": "layerpace compare"}', "is not a training's"),
        ("config.json", "not JSON", "is not a training's"),
        ("run.json", "{}", "is the folder of a run of your own"),
    ],
)
def test_overwrite_spares_what_is_not_a_training(name: str, content: str, message: str) -> None:
    OUT.mkdir()
    (OUT / name).write_text(content)
    with pytest.raises(UsageError, match=message), opened(OUT, {}, resume=False, overwrite=True):
        pass
    assert (OUT / name).read_text() == content


@pytest.mark.parametrize("named", [True, False])
def test_a_restart_goes_on_only_where_its_own_launch_has_opened(monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """`named`: the rendezvous has an id; else all attempts have a folder for logs in common."""

    def attempt(number: int, launch: str) -> None:
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch if named else "none")
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"/tmp/logs/{launch}/attempt_{number}/0/error.json")

    config = {"fingerprint": "a"}
    for old in ("alone", "other"):
        if old == "other":
            attempt(0, "other")
        with opened(OUT, config, resume=False, overwrite=True):
            (OUT / "config.json").write_text(json.dumps(config))
            (OUT / "DONE").write_text("{}")
        for number in (0, 1):  # the first was refused, so the second is, too
            attempt(number, "this")
            folder = opened(OUT, config, resume=False, overwrite=False, restarted=number > 0)
            with pytest.raises(UsageError, match="holds a training already"), folder:
                pass
    with opened(OUT, config, resume=False, overwrite=True, restarted=True):  # lost before it had opened it
        assert not (OUT / "DONE").exists()
        (OUT / "config.json").write_text(json.dumps(config))
        (OUT / "DONE").write_text("{}")
    for resume, overwrite in ((False, False), (False, True)):
        with opened(OUT, config, resume, overwrite, restarted=True):
            assert (OUT / "DONE").exists()


def test_what_is_somebody_elses_stays_as_it_is() -> None:
    OUT.mkdir()
    (OUT / "DONE").write_text("{}")
    folder = opened(OUT, {"fingerprint": "a"}, resume=True, overwrite=False)
    with pytest.raises(UsageError, match=r"has a DONE and no config\.json"), folder:
        pass
    assert [path.name for path in OUT.iterdir()] == ["DONE"]


# The command


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        cli.dispatch(["train", "--task", "half.py:task", *arguments])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return (status, *capsys.readouterr())


def test_the_command_trains_and_says_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capsys, "--method", "lamb:clip=1", "--steps", "8", "--out", "out")
    assert status == 0, err
    lines = [line.split("  (")[0] for line in err.splitlines()]
    assert lines[0] == "half: LAMB (clip=1), lr 0.01, seed 0, 8 steps of batch 16, to out"
    assert [line.split("  ")[0] for line in lines[1:]] == ["step 0/8", "step 4/8", "step 8/8"]
    done = json.loads((OUT / "DONE").read_text())
    assert f"test accuracy {100 * done['test_score']:.1f}% after 8 steps" in out
    assert "all files: out" in out


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    Path("half.py").write_text(TASK.replace("return Task", 'print("noise")\n    return Task'))
    status, out, _ = command(capsys, "--json", "--out", "out")
    assert status == 0
    document = json.loads(out)
    assert document["out"] == "out" and document["status"] == "done" and document["config"]["method"] == "adam"


def test_resume_starts_where_there_is_nothing_and_the_default_folder_names_the_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(capsys, "--resume", "--seed", "3")[0] == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("train-half-adam-s3-")
    status, _, err = command(capsys, "--seed", "3")
    assert status == 2 and "--resume" in err and err.count("\n") == 1
    assert command(capsys, "--seed", "3", "--resume")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "--overwrite"], "--resume goes on with what --overwrite deletes"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--shard", "fsdp"], "--shard fsdp: start the processes with torchrun"),
        (["--method", "lamb:wieght_decay=1"], "did you mean weight_decay?"),
    ],
)
def test_bad_requests_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    status, out, err = command(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not Path("runs").exists()


def test_a_diverged_training_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, "--method", "sgd", "--lr", "1e30", "--out", "out")
    assert status == 0
    assert "diverged at step" in out
