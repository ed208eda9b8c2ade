from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layerpace.lab import recording
from layerpace.lab.batches import Batches, evenly, split
from layerpace.lab.compare import compare
from layerpace.lab.compare_plan import Cell, Request, plan
from layerpace.lab.data import Dataset
from layerpace.lab.errors import LabError, Stopped, UsageError
from layerpace.lab.plots import draw
from layerpace.lab.records import Folder, to_json
from layerpace.lab.schedule import scheduler
from layerpace.lab.stopping import StopSignals
from layerpace.lab.tasks import Task
from layerpace.lab.unevenness import matrices, unevenness
from layerpace.monitors.folder import load
from layerpace.monitors.monitor import Monitor

from .conftest import Silent, tiny_data, tiny_model

OUT = Path("out")


def request(*methods: str, **options: Any) -> Request:
    return Request(**{"methods": methods or ("sgd", "lamb"), "seeds": 2, "out": OUT, **options})


def records(out: Path) -> dict[str, bytes]:
    """Every file that must not depend on when a process was stopped."""
    runs = sorted((out / "runs").iterdir())
    names = ("curve.jsonl", "records.jsonl", "run.json", "initial.pt")
    return {f"{run.name}/{name}": untimed((run / name).read_bytes()) for run in runs for name in names}


def untimed(content: bytes) -> bytes:
    """Without the moments at which records were made and the run began."""
    return re.sub(rb'"(time|started)": [\d.]+', b"", content)


def digests(out: Path) -> dict[str, str]:
    return {run: result["weights_sha256"] for run, result in ends(out).items()}


def ends(out: Path) -> dict[str, dict[str, Any]]:
    """What each run came to, but for how long its steps took."""
    results = {run.name: json.loads((run / "DONE").read_text()) for run in (out / "runs").iterdir()}
    return {run: {key: x for key, x in result.items() if not key.endswith("_ms")} for run, result in results.items()}


def test_a_comparison_writes_what_the_records_say(task: Task, silent: Silent) -> None:
    results = compare(request(), task, silent, draw=draw)
    assert json.loads((OUT / "results.json").read_text()) == json.loads(to_json(results))
    assert [row["label"] for row in results["methods"]] == ["SGD", "LAMB"]
    assert all((OUT / "plots" / name).stat().st_size > 5000 for name in ("scores.png", "updates.png", "rotation.png"))
    assert len(list((OUT / "runs").iterdir())) == 4
    for run in (OUT / "runs").iterdir():
        curve = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
        (recorded,) = load(run)
        done = json.loads((run / "DONE").read_text())
        assert [row["step"] for row in curve] == [0, 4, 8, 12]
        assert recorded.history.steps == [1, 4, 8, 12]
        assert recorded.history["relative_update_l1"].shape == (4, 6)
        assert recorded.finished
        assert done["step_ms"] > done["optimizer_ms"] > 0
        assert done["layers"] == matrices(recorded.layers) == ["0.weight", "4.weight", "6.weight"]
        assert done["unevenness"] == unevenness(recorded.history, done["layers"]) > 0
        for key, name in [("test_score", "test_accuracy"), ("test_loss",) * 2, ("train_loss",) * 2]:
            found = recorded.scalars[name]
            kept = [row for row in curve if row[key] is not None]
            assert found.steps == [row["step"] for row in kept]
            assert found.values == pytest.approx([row[key] for row in kept], rel=1e-6)
        assert not (run / "checkpoint.pt").exists()
        assert torch.load(run / "weights.pt", weights_only=True).keys() == tiny_model().state_dict().keys()
    assert silent.points[:4] == [("sgd", 0, 0), ("sgd", 0, 4), ("sgd", 0, 8), ("sgd", 0, 12)]


def test_a_run_folder_tells_what_it_was_made_with(task: Task, silent: Silent) -> None:
    options = {"dtype": "bf16", "validation": 0.25, "record_every": 3}
    compare(request("lamb:lr=0.02,clip=1,schedule=cosine", seeds=1, **options), task, silent)
    (run,) = load(OUT)
    expected = {"task": "tiny", "method": "lamb", "lr": 0.02, "seed": 0, "steps": 12}
    expected |= {"batch_size": 16, "schedule": "cosine", "eval_every": 4, "autocast": "bf16", "dtype": "float32"}
    expected["options"] = {"trust_clip": "1"}
    assert {key: run.settings[key] for key in expected} == expected
    assert run.history.steps == [1, 3, 6, 9, 12]
    assert torch.isfinite(run.history["cosine_distance"][:, 0]).all()
    assert {"validation_accuracy", "validation_loss"} < run.scalars.keys()


@pytest.mark.parametrize("looks", [None, 6])
def test_rotation_is_that_from_the_weights_of_the_seed(task: Task, looks: int | None) -> None:
    """Also where the run goes on from a checkpoint, which does not hold them."""
    if looks is not None:
        with pytest.raises(Stopped):
            compare(request("adam", seeds=1), task, Silent(), StopAt(looks))
    compare(request("adam", seeds=1, resume=looks is not None), task, Silent())
    torch.manual_seed(0)
    start = tiny_model().state_dict()
    (run,) = load(OUT)
    assert run.path is not None
    end = torch.load(run.path / "weights.pt", weights_only=True)
    for name in ("0.weight", "4.weight", "6.weight"):
        cosine = torch.cosine_similarity(start[name].flatten().double(), end[name].flatten().double(), dim=0)
        assert run.history.series("cosine_distance", name)[1][-1] == pytest.approx(1 - cosine.item(), rel=1e-5)


def test_the_final_score_is_that_of_the_whole_test_set(task: Task, silent: Silent) -> None:
    results = compare(request("sgd:lr=1e-6", seeds=1, eval_size=5), task, silent)
    (run,) = (OUT / "runs").iterdir()
    net = tiny_model().eval()
    net.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    with torch.no_grad():
        outputs = net(task.data.floats(task.data.test_inputs))
    accuracy = (outputs.argmax(1) == task.data.test_targets).double().mean().item()
    assert results["methods"][0]["scores"] == [pytest.approx(accuracy)]
    assert json.loads((run / "curve.jsonl").read_text().splitlines()[-1])["test_score"] != pytest.approx(accuracy)


def test_every_method_starts_from_the_same_weights_and_sees_the_same_batches(task: Task, silent: Silent) -> None:
    seen: list[Tensor] = []
    starts: list[Tensor] = []

    def watched() -> nn.Module:
        net = tiny_model()
        starts.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
        net.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()) if m.training else None)
        return net

    compare(request("sgd", "layca"), replace(task, model=watched), silent)
    half = len(seen) // 2
    assert half == 2 * 12
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    starts = starts[1:]  # the first is the plan's, which looks at names and shapes
    assert torch.equal(starts[0], starts[2])
    assert torch.equal(starts[1], starts[3])
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(seen[0], seen[12])


def test_an_epoch_shows_every_example_once() -> None:
    data = tiny_data()
    batches = Batches(data, torch.arange(64), 16, seed=3, augment=None)
    first, second = (
        [tuple(x.flatten().tolist()) for s in steps for x in batches(s)[0]] for steps in (range(4), range(4, 8))
    )
    everything = sorted(tuple(x.flatten().tolist()) for x in data.floats(data.train_inputs))
    assert sorted(first) == sorted(second) == everything
    assert first != second


def test_batches_do_not_depend_on_where_one_starts() -> None:
    def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs + torch.rand(inputs.shape, generator=generator)

    there, here = (Batches(tiny_data(), torch.arange(64), 16, seed=3, augment=augment) for _ in range(2))
    for step in range(6):
        there(step)
    assert torch.equal(there(6)[0], here(6)[0])
    noise = [
        there(step)[0] - Batches(tiny_data(), torch.arange(64), 16, seed=3, augment=None)(step)[0] for step in (5, 6)
    ]
    assert not torch.allclose(*noise, atol=1e-3)


def test_splits() -> None:
    train, validation = split(100, 10)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(100))
    assert len(validation) == 10
    assert torch.equal(split(100, 10)[1], validation)
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(10, None).tolist() == evenly(10, 99).tolist() == list(range(10))


class StopAt(StopSignals):
    """Pretends that a signal arrives after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.polled = False
        self.previous = {}

    @property
    def received(self) -> int | None:  # type: ignore[override]
        self.looks -= 1
        return 15 if self.looks < 0 else None


@pytest.mark.parametrize("method", ["adam:schedule=cosine", "percent-delta:schedule=linear", "layca"])
@pytest.mark.parametrize("looks", [1, 4, 6, 12, 17])
def test_a_stopped_comparison_goes_on_to_the_same_bits(task: Task, method: str, looks: int) -> None:
    compare(request(method, out=Path("whole")), task, Silent())
    with pytest.raises(Stopped):
        compare(request(method), task, Silent(), StopAt(looks))
    resumed = Silent()
    compare(request(method, resume=True), task, resumed)
    assert records(OUT) == records(Path("whole"))
    assert ends(OUT) == ends(Path("whole"))
    assert resumed.reused == [looks >= 12, False]


@pytest.mark.parametrize("looks", [1, 5, 9, 14, 22])
def test_thinned_records_are_those_of_an_uninterrupted_run(
    task: Task, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "Monitor", functools.partial(Monitor, max_records=4))
    options: dict[str, Any] = {"seeds": 1, "steps": 24, "eval_every": 2, "record_every": 1}
    compare(request("lamb", out=Path("whole"), **options), task, Silent())
    with pytest.raises(Stopped):
        compare(request("lamb", **options), task, Silent(), StopAt(looks))
    compare(request("lamb", resume=True, **options), task, Silent())
    assert records(OUT) == records(Path("whole"))
    assert ends(OUT) == ends(Path("whole"))
    (run,) = load(OUT)
    assert 2 <= len(run.history) <= 4


@pytest.mark.parametrize(("steps", "timed"), [(4, False), (5, True)])
def test_a_recorded_step_is_not_timed(task: Task, steps: int, timed: bool) -> None:
    """Nor are the first three."""
    compare(request("sgd", seeds=1, steps=steps, record_every=4), task, Silent())
    (done,) = OUT.glob("runs/*/DONE")
    assert (json.loads(done.read_text())["step_ms"] is not None) == timed


def test_what_a_run_has_recorded_can_be_read_while_it_trains(task: Task) -> None:
    seen: list[tuple[list[int], list[int], bool]] = []

    class Reader(Silent):
        def point(self, cell: Cell, step: int, score: float) -> None:
            (run,) = load(OUT)
            assert run.scalars["test_accuracy"].values[-1] == pytest.approx(score)
            seen.append((run.history.steps, run.scalars["test_accuracy"].steps, run.finished))

    compare(request("lamb", seeds=1), task, Reader())
    steps = [[], [1, 4], [1, 4, 8], [1, 4, 8, 12]]
    assert seen == [(steps[i], [0, 4, 8, 12][: i + 1], False) for i in range(4)]
    assert load(OUT)[0].finished


class Killed(BaseException):
    """Ends a run as nothing that it could handle."""


@pytest.mark.parametrize("at", ["open", "flush", "state_dict", "log", "close"])
@pytest.mark.parametrize("calls", [1, 2, 5])
def test_a_run_killed_while_its_monitor_writes_goes_on_to_the_same_bits(
    task: Task, at: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the monitor is cut short after what it does; there is a checkpoint at every evaluation."""
    options: dict[str, Any] = {"seeds": 1, "record_every": 1, "checkpoint_seconds": 0.0}
    compare(request("lamb", "sgd", out=Path("whole"), **options), task, Silent())
    left = calls
    name = "__init__" if at == "open" else at
    real = getattr(Monitor, name)

    def mortal(self: Monitor, *args: Any, **keywords: Any) -> Any:
        nonlocal left
        result = real(self, *args, **keywords)
        left -= 1
        if left == 0:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, name, mortal)
        try:
            compare(request("lamb", "sgd", **options), task, Silent())
        except Killed:
            pass
        else:
            assert at in ("open", "close") and calls == 5  # there are two runs
    compare(request("lamb", "sgd", resume=True, **options), task, Silent())
    assert records(OUT) == records(Path("whole"))
    assert ends(OUT) == ends(Path("whole"))
    assert [end["status"] for end in ends(OUT).values()] == ["done"] * 2


def test_finished_runs_are_not_repeated(task: Task) -> None:
    first, second = Silent(), Silent()
    before = compare(request(), task, first)
    after = compare(request(resume=True), task, second)
    assert first.reused == [False] * 4
    assert second.reused == [True] * 4
    assert second.points == []
    assert before == after


def test_lines_after_the_last_checkpoint_are_cut(task: Task) -> None:
    compare(request("sgd", seeds=1, out=Path("whole")), task, Silent())
    with pytest.raises(Stopped):
        compare(request("sgd", seeds=1), task, Silent(), StopAt(5))
    (run,) = (OUT / "runs").iterdir()
    with open(run / "curve.jsonl", "a") as file:
        file.write('{"step": 8, "test_sco')
    lines = (run / "records.jsonl").read_text().splitlines()
    later = next(line for line in lines if '"step": 4' in line).replace('"step": 4', '"step": 8')
    with open(run / "records.jsonl", "a") as file:
        file.write(later + "\n" + later[:30])
    compare(request("sgd", seeds=1, resume=True), task, Silent())
    assert records(OUT) == records(Path("whole"))


def test_a_folder_that_holds_a_comparison_is_not_touched_unasked(task: Task) -> None:
    compare(request(), task, Silent())
    before = records(OUT)
    with pytest.raises(UsageError, match=r"--resume .* --overwrite .* --out"):
        compare(request(), task, Silent())
    with pytest.raises(UsageError, match=r"other settings \(steps was 12, now 13"):
        compare(request(steps=13, resume=True), task, Silent())
    config = json.loads((OUT / "config.json").read_text())
    (OUT / "config.json").write_text(json.dumps({**config, "version": 1}))  # its runs have no records.jsonl
    with pytest.raises(UsageError, match=r"version was 1, now 3"):
        compare(request(resume=True), task, Silent())
    (OUT / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="data was"):
        compare(request(resume=True), replace(task, data=tiny_data(90)), Silent())
    assert records(OUT) == before
    again = Silent()
    compare(request("sgd", seeds=1, overwrite=True), task, again)
    assert again.reused == [False]
    assert len(list((OUT / "runs").iterdir())) == 1


def test_overwrite_spares_a_folder_that_is_not_a_comparison(task: Task) -> None:
    (OUT / "runs").mkdir(parents=True)
    (OUT / "runs" / "mine").touch()
    (OUT / "config.json").write_text('{"learning": "rate"}')
    with pytest.raises(UsageError, match="is not a comparison's"):
        compare(request(overwrite=True), task, Silent())
    (OUT / "config.json").unlink()
    compare(request(overwrite=True), task, Silent())
    assert (OUT / "runs" / "mine").exists()


def test_two_processes_cannot_share_a_folder() -> None:
    with Folder(OUT, {"a": 1}, resume=False, overwrite=False), pytest.raises(LabError, match="in use by another"):
        Folder(OUT, {"a": 1}, resume=True, overwrite=False)
    Folder(OUT, {"a": 1}, resume=True, overwrite=False).close()


def test_a_diverged_run_is_reported_and_the_rest_goes_on(task: Task) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets).exp().exp()

    results = compare(request("sgd:lr=1e6", "layca:lr=1e-4"), replace(task, loss=loss), Silent(), draw=draw)
    lost, kept = results["methods"]
    assert [seed for seed, _ in lost["diverged"]] == [0, 1]
    assert lost["score_mean"] is None
    assert all(1 < step <= 12 for _, step in lost["diverged"])
    assert kept["diverged"] == []
    assert len(kept["scores"]) == 2


def test_divergence_is_dated_to_the_step_whose_loss_it_was(task: Task) -> None:
    steps = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal steps
        steps += torch.is_grad_enabled()
        return nn.functional.cross_entropy(outputs, targets) * (float("nan") if steps == 6 else 1.0)

    results = compare(request("sgd", seeds=1), replace(task, loss=loss), Silent())
    assert results["methods"][0]["diverged"] == [(0, 6)]


def test_an_optimizer_that_raises_on_a_bad_gradient_counts_as_diverged(task: Task) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs * float("nan"), targets)

    results = compare(request("lamb:nonfinite=raise", seeds=1), replace(task, loss=loss, eval_every=12), Silent())
    assert results["methods"][0]["diverged"] == [(0, 1)]


def test_what_was_recorded_before_an_optimizer_raised_is_kept(task: Task) -> None:
    steps = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal steps
        steps += torch.is_grad_enabled()
        return nn.functional.cross_entropy(outputs, targets) * (float("nan") if steps == 4 else 1.0)

    options: dict[str, Any] = {"seeds": 1, "eval_every": 12, "record_every": 1}
    results = compare(request("lamb:nonfinite=raise", **options), replace(task, loss=loss), Silent())
    assert results["methods"][0]["diverged"] == [(0, 4)]
    (run,) = load(OUT)
    assert run.history.steps == [1, 2, 3]
    assert run.finished
    assert results["methods"][0]["unevenness"] == unevenness(run.history, matrices(run.layers)) is not None


@pytest.mark.parametrize("looks", [1, 2, 3, 4, 5])
def test_a_diverged_run_that_was_stopped_ends_as_it_would_have(task: Task, looks: int) -> None:
    """One training example, in the first epoch of four steps, has a loss that is not a number."""
    targets = task.data.train_targets.clone()
    targets[20] = 2

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets.clamp(max=1)) * (
            float("nan") if (targets == 2).any() else 1
        )

    poisoned = replace(task, data=replace(task.data, train_targets=targets), loss=loss)
    whole = compare(request("sgd", "adam", seeds=1, out=Path("whole")), poisoned, Silent())
    with pytest.raises(Stopped):
        compare(request("sgd", "adam", seeds=1), poisoned, Silent(), StopAt(looks))
    resumed = compare(request("sgd", "adam", seeds=1, resume=True), poisoned, Silent())
    assert [m["diverged"] for m in resumed["methods"]] == [m["diverged"] for m in whole["methods"]]
    assert all(len(m["diverged"]) == 1 for m in resumed["methods"])
    assert records(OUT) == records(Path("whole"))
    assert ends(OUT) == ends(Path("whole"))


def test_a_diverged_rate_is_never_the_best_even_where_scores_are_negative(task: Task) -> None:
    negative = replace(
        task, metric=lambda outputs, targets: -nn.functional.cross_entropy(outputs, targets, reduction="none")
    )
    made = compare(request("sgd:lr=1e38/0.01", seeds=1), negative, Silent())
    assert made["methods"][0]["tried"][0]["diverged"] == 1
    assert made["methods"][0]["lr"] == 0.01


def test_globs_are_checked_against_the_names_of_the_model(task: Task) -> None:
    assert plan(request("lars:exclude=*.bias"), task).cells
    with pytest.raises(UsageError, match="matches no parameter"):
        plan(request("lars:exclude=bias"), task)


def test_another_model_or_task_file_is_another_comparison(task: Task) -> None:
    compare(request("sgd", seeds=1), task, Silent())
    wider = replace(task, model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    with pytest.raises(UsageError, match="parameters was"):
        compare(request("sgd", seeds=1, resume=True), wider, Silent())
    with pytest.raises(UsageError, match="source was"):
        compare(request("sgd", seeds=1, resume=True), replace(task, source="edited"), Silent())


def test_tokens_reach_an_embedding_as_they_are(silent: Silent) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 10, (48, 5), generator=generator)
    labels = (tokens[:, 0] > 4).long()
    words = Task(
        name="words",
        data=Dataset(tokens[:32], labels[:32], tokens[32:], labels[32:], classes=2),
        model=lambda: nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 2)),
        steps=4,
        eval_every=2,
        batch_size=8,
    )
    results = compare(request("lamb", seeds=1), words, silent)
    assert results["methods"][0]["diverged"] == []


def test_targets_and_inputs_must_match() -> None:
    data = tiny_data()
    with pytest.raises(UsageError, match=r"train set has 64 inputs and 3 targets"):
        replace(data, train_targets=data.train_targets[:3])


def test_step_times_survive_a_stop(task: Task) -> None:
    with pytest.raises(Stopped):
        compare(request("sgd", seeds=1), task, Silent(), StopAt(11))
    resumed = compare(request("sgd", seeds=1, resume=True), task, Silent())
    assert resumed["methods"][0]["step_ms"] > 0


def test_the_rate_is_chosen_on_held_out_examples(task: Task) -> None:
    results = compare(request("adam:lr=1e-7/0.03", "sgd"), task, Silent())
    adam, _ = results["methods"]
    assert results["config"]["validation"] == 6
    assert adam["lr"] == 0.03
    assert len(adam["folders"]) == 2
    assert [entry["lr"] for entry in adam["tried"]] == [1e-7, 0.03]
    assert all("validation_score" in entry for entry in adam["tried"])


def test_the_rate_may_be_chosen_by_steps_to_the_target(task: Task) -> None:
    made = compare(request("adam:lr=1e-7/0.03", choose="steps", target=0.7), task, Silent())
    assert made["methods"][0]["lr"] == 0.03


def test_without_several_rates_nothing_is_held_out(task: Task) -> None:
    assert plan(request(), task).validation == 0
    assert plan(request(lr_grid=(0.1, 0.2)), task).validation == 6
    assert len(plan(request("sgd", "adam:lr=3", lr_grid=(0.1, 0.2)), task).cells) == 2 * (2 + 1)


def test_the_default_folder_depends_on_the_settings(task: Task) -> None:
    one, two = (plan(request(out=None, steps=steps), task).out for steps in (5, 6))
    assert one.parent == Path("runs")
    assert one.name.startswith("compare-tiny-")
    assert one != two


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 65}, "--batch-size 65: must be 1 to 64"),
        ({"device": "abacus"}, "--device abacus"),
        ({"validation": 1.5}, "--validation 1.5"),
        ({"validation": 0.0, "lr_grid": (1.0, 2.0)}, "--validation 0"),
        ({"methods": ("sgd", "sgd")}, "twice"),
        ({"methods": ()}, "--methods"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    task: Task, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        compare(request(**options), task, Silent())
    assert not OUT.exists()


def test_bf16_trains_and_keeps_fp32_weights(task: Task, silent: Silent) -> None:
    compare(request("adam", seeds=1, dtype="bf16"), task, silent)
    compare(request("adam", seeds=1, out=Path("fp32")), task, silent)
    assert set(digests(OUT).values()) != set(digests(Path("fp32")).values())
    (run,) = (OUT / "runs").iterdir()
    assert {w.dtype for w in torch.load(run / "weights.pt", weights_only=True).values()} == {torch.float32}


def test_another_metric_and_float_targets(silent: Silent) -> None:
    data = tiny_data()
    task = Task(
        name="regression",
        data=replace(
            data, train_targets=data.train_targets[:, None].float(), test_targets=data.test_targets[:, None].float()
        ),
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 1)),
        loss=nn.functional.mse_loss,
        metric=lambda outputs, targets: -(outputs - targets).abs().mean(1),
        metric_name="negative error",
        steps=6,
        eval_every=3,
        batch_size=8,
    )
    results = compare(request("adam", seeds=1), task, silent, draw=draw)
    assert results["metric"] == "negative error"
    assert results["methods"][0]["score_mean"] < 0
    (run,) = load(OUT)
    assert max(run.scalars["test_negative error"].values) < 0
    assert set(run.scalars) == {"test_negative error", "test_loss", "train_loss"}
    assert recording.scalars({"step": 1, "test_score": 2.0, "test_loss": 3.0}, "loss") == {
        "test_score": 2.0,
        "test_loss": 3.0,
    }


@pytest.mark.parametrize(("name", "last"), [("linear", 0.01), ("cosine", 0.0)])
def test_schedules_end_where_they_say(name: str, last: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=2.0)
    made = scheduler(name, optimizer, 10)
    assert made is not None
    assert optimizer.param_groups[0]["lr"] == 2.0
    for _ in range(10):
        optimizer.step()
        made.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * last, abs=1e-12)
    assert scheduler("constant", optimizer, 10) is None
