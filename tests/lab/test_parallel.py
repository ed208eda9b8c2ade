"""Trainings on several processes: the same as on one, whoever is stopped and however they go on."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.processes import Pool, pool_of
from tests.lab import teams
from torch import Tensor

from layerpace.lab.batches import Batches, portion
from layerpace.lab.errors import LabError
from layerpace.lab.parallel import Team
from layerpace.lab.rendezvous import meet
from layerpace.lab.single import resolve

TASKS = "tests.lab.teams:"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    yield from pool_of(4)


def config_of(task: str | None = None, **options: Any) -> dict[str, Any]:
    """Of twelve steps on the digits, or of a task of `teams`."""
    request: dict[str, Any] = {"method": "lamb", "steps": 12, "eval_every": 4, "eval_size": 45, "threads": 1, **options}
    return resolve(request | ({} if task is None else {"task": TASKS + task, "method": "adam"}))


def weights(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path / "weights.pt", weights_only=True)
    return found


def curve(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "curve.jsonl").read_text().splitlines()]


@functools.cache
def alone(config: str, folder: Path) -> Path:
    """The folder of the same training in one process, which no process group knows of."""
    path = folder / str(abs(hash(config)))
    teams.train(json.loads(config), str(path))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    return lambda config: alone(json.dumps(config, sort_keys=True), folder)


def assert_same(path: Path, expected: Path, rtol: float = 1e-5) -> None:
    """Weights to `rtol` of each tensor's largest, and the curve with them."""
    for name, value in weights(expected).items():
        found = weights(path)[name]
        assert found.shape == value.shape and type(found) is Tensor
        assert (found - value).abs().max() <= rtol * value.abs().max(), name
    for row, other in zip(curve(path), curve(expected), strict=True):
        assert row.keys() == other.keys()
        for key, value in other.items():
            assert row[key] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)), key


WORLDS = [("ddp", 1), ("ddp", 2), ("ddp", 4), ("fsdp", 1), ("fsdp", 2), ("fsdp", 4)]


# The same training


@pytest.mark.parametrize(("shard", "world"), WORLDS)
def test_any_number_of_processes_train_as_one(pool: Pool, tmp_path: Path, whole: Any, shard: str, world: int) -> None:
    config = config_of()
    results = pool.run(teams.train, world, config=config, out=str(tmp_path), shard=shard)
    assert_same(tmp_path, whole(config))
    assert all(result == results[0] for result in results)
    assert results[0] == json.loads((tmp_path / "DONE").read_text())
    if (shard, world) == ("ddp", 1):
        expected = json.loads((whole(config) / "DONE").read_text())
        assert results[0]["weights_sha256"] == expected["weights_sha256"]


@pytest.mark.parametrize(
    ("shard", "world", "options"),
    [
        ("ddp", 4, {"batch_size": 61, "accumulate": 3, "method": "lars", "validation": 0.1}),
        ("fsdp", 4, {"batch_size": 61, "accumulate": 3, "method": "lars", "validation": 0.1}),
        ("ddp", 4, {"batch_size": 3, "accumulate": 2, "method": "adam"}),  # one process has no example, others one
        ("fsdp", 4, {"batch_size": 3, "accumulate": 2, "method": "adam"}),
        ("ddp", 2, {"warmup": 4, "lr_scaling": "sqrt", "base_batch_size": 16, "method": "layca"}),
    ],
)
def test_uneven_shares_and_accumulation(
    pool: Pool, tmp_path: Path, whole: Any, shard: str, world: int, options: dict[str, Any]
) -> None:
    config = config_of(**options)
    pool.run(teams.train, world, config=config, out=str(tmp_path), shard=shard)
    assert_same(tmp_path, whole(config), 1e-4)  # Adam divides small gradients by their own size


def test_augmentation_is_that_of_the_whole_batch(pool: Pool, tmp_path: Path, whole: Any) -> None:
    config = config_of("noisy_task")
    pool.run(teams.train, 4, config=config, out=str(tmp_path))
    assert_same(tmp_path, whole(config))


@pytest.mark.parametrize(("shard", "world"), [("ddp", 2), ("ddp", 4), ("fsdp", 2)])
def test_a_layer_may_take_no_part(pool: Pool, tmp_path: Path, whole: Any, shard: str, world: int) -> None:
    config = config_of("unused_task")
    pool.run(teams.train, world, config=config, out=str(tmp_path), shard=shard)
    assert_same(tmp_path, whole(config))


def test_each_process_drops_units_of_its_own(pool: Pool, tmp_path: Path) -> None:
    first, second = pool.run(teams.generators, 2, config=config_of("normed_task"), out=str(tmp_path))
    states = [*first[-12:], *second[-12:]]  # a pass that looks for unused parameters comes before
    assert len(states) == 2 * 12
    assert len({state.numpy().tobytes() for state in states}) == 2 * 12


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_what_is_scored_are_the_weights_and_statistics_that_are_kept(pool: Pool, tmp_path: Path, shard: str) -> None:
    """Each process has statistics of its own shares of the batches until it gets those of rank 0."""
    result, _ = pool.run(teams.train, 2, config=config_of("normed_task"), out=str(tmp_path), shard=shard)
    model, data = teams.normed().eval(), teams.tiny_data()
    model.load_state_dict(weights(tmp_path))
    loss = torch.nn.functional.cross_entropy(model(data.floats(data.test_inputs)), data.test_targets)
    assert result["test_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_one_example_that_breaks_the_loss_stops_all(pool: Pool, tmp_path: Path, whole: Any) -> None:
    config = config_of("bad_task")
    results = pool.run(teams.train, 4, config=config, out=str(tmp_path))
    expected = json.loads((whole(config) / "DONE").read_text())
    assert {result["status"] for result in results} == {expected["status"]} == {"diverged"}
    assert {result["diverged_at"] for result in results} == {expected["diverged_at"]}


# Stopped, and gone on


@pytest.mark.parametrize(
    ("before", "after", "at"),
    [
        (("ddp", 2), ("ddp", 2), 6),
        (("ddp", 4), ("ddp", 4), 8),
        (("fsdp", 4), ("fsdp", 4), 8),
        (("ddp", 2), None, 8),
        (None, ("ddp", 2), 7),
        (("fsdp", 2), ("ddp", 4), 8),
        (("ddp", 4), ("fsdp", 2), 6),
        (None, ("fsdp", 4), 7),
    ],
)
def test_a_signal_to_one_process_stops_all_and_any_number_goes_on(
    pool: Pool, tmp_path: Path, whole: Any, before: Any, after: Any, at: int
) -> None:
    """Evaluations are at steps 6 and 12; of a team, step 8 is the other one at which it looks for signals."""
    config = config_of(method="layca", lr=0.01, schedule="cosine", steps=14, eval_every=6)
    out = tmp_path / "out"

    def train(team: tuple[str, int] | None, path: Path, stop: tuple[int, int] | None) -> list[Any]:
        if team is None:
            return [teams.train(config, str(path), stop=stop)]
        return pool.run(teams.train, team[1], config=config, out=str(path), shard=team[0], stop=stop)

    last = 0 if before is None else before[1] - 1
    assert set(train(before, out, (last, at - 1))) == {"stopped"}
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == at
    assert not (out / "DONE").exists()
    result = train(after, out, None)[0]
    if before == after:
        undisturbed = train(after, tmp_path / "whole", None)[0]
        assert result["weights_sha256"] == undisturbed["weights_sha256"]
        assert curve(out) == curve(tmp_path / "whole")
    else:
        assert_same(out, whole(config))


def test_what_differs_between_processes_goes_on_to_the_same_bits(pool: Pool, tmp_path: Path) -> None:
    """Statistics of batch normalisation, and dropout."""
    config = config_of("normed_task")
    pool.run(teams.train, 4, config=config, out=str(tmp_path / "out"), stop=(2, 1))
    results = [pool.run(teams.train, 4, config=config, out=str(tmp_path / name))[0] for name in ("out", "whole")]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    assert curve(tmp_path / "out") == curve(tmp_path / "whole")


def test_a_comparison_on_several_processes_is_that_on_one(pool: Pool, tmp_path: Path) -> None:
    """Stopped in the second run, by a signal to the second process, and gone on with."""
    expected = teams.compare(str(tmp_path / "alone"))
    assert set(pool.run(teams.compare, 2, out=str(tmp_path / "out"), stop=(1, 12 + 1 + 7))) == {"stopped"}
    assert len(list((tmp_path / "out").glob("runs/*/DONE"))) == 1
    first, second = pool.run(teams.compare, 2, out=str(tmp_path / "out"), resume=True)
    assert first == second == json.loads((tmp_path / "out" / "results.json").read_text())
    assert isinstance(expected, dict)
    assert [row["label"] for row in first["methods"]] == ["LAMB", "PercentDelta"]
    for run in (tmp_path / "alone" / "runs").iterdir():
        assert_same(tmp_path / "out" / "runs" / run.name, run, 1e-4)


# Who does what


def test_rank_0_alone_writes(pool: Pool, tmp_path: Path) -> None:
    pool.run(teams.train, 2, config=config_of("noisy_task"), out=str(tmp_path), own=True)
    assert [path.name for path in tmp_path.iterdir()] == ["rank0"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("value", [{"made": 7}] * 2),
        ("usage", [("UsageError", "--x 3: no")] * 2),
        ("disk", [("OSError", "disk full"), ("LabError", "disk full")]),
    ],
)
def test_what_rank_0_makes_or_raises_is_told(pool: Pool, kind: str, expected: Any) -> None:
    assert pool.run(teams.told, 2, kind=kind) == expected


def test_one_process_of_a_machine_loads_before_the_others(pool: Pool) -> None:
    times = pool.run(teams.in_turn, 4, failing=None)
    assert all(start >= times[0][1] for start, _ in times[1:])


@pytest.mark.parametrize("failing", [0, 2])
def test_all_processes_hear_of_data_that_one_lacks(pool: Pool, failing: int) -> None:
    assert pool.run(teams.in_turn, 4, failing=failing) == [f"no data on {failing}"] * 4


def test_processes_meet_where_others_have_been() -> None:
    """As after a restart: rank 0 finds what the old rank 1 left, before the new one has come."""
    store = torch.distributed.HashStore()

    def attempt() -> list[Any]:
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(meet, store, 0, 2, 20.0)
            time.sleep(0.2)
            second = threads.submit(meet, store, 1, 2, 20.0)
            return [first.result(), second.result()]

    for _ in range(3):
        ours, theirs = attempt()
        assert not ours.check(["address"])
        ours.set("address", "here")
        assert theirs.get("address") == b"here"


def test_a_process_that_waits_in_vain_says_so() -> None:
    with pytest.raises(LabError, match=r"process 0 of 2 did not find the others within 0\.1 s"):
        meet(torch.distributed.HashStore(), 0, 2, 0.1)


# Shares of a batch


@pytest.mark.parametrize(("examples", "parts"), [(10, 1), (10, 4), (3, 4), (0, 2)])
def test_portions_are_in_order_and_as_even_as_can_be(examples: int, parts: int) -> None:
    cuts = [portion(examples, parts, place) for place in range(parts)]
    assert [place for cut, count in cuts if count for place in range(cut.start, cut.stop)] == list(range(examples))
    assert max(count for _, count in cuts) - min(count for _, count in cuts) <= 1
    assert all(cut == slice(0, 1) for cut, count in cuts if not count)


def test_a_batch_is_the_same_for_any_number_of_processes() -> None:
    data = teams.tiny_data()

    def batch(world: int, step: int) -> Tensor:
        ranks = [Batches(data, torch.arange(64), 16, 3, None, Team(rank, world)) for rank in range(world)]
        return torch.cat([one(step)[0] for one in ranks])

    for step in (0, 5):
        assert torch.equal(batch(1, step), batch(3, step))
    shares = [Batches(data, torch.arange(64), 16, 3, None, Team(rank, 3)).parts(0, 4) for rank in range(3)]
    assert sum(share for parts in shares for _, _, share in parts) == pytest.approx(1.0)
