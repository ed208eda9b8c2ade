"""Section 6.1's three settings: their tasks, the search for rates, and how the claims are decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from layerpace.lab.errors import UsageError
from layerpace.lab.recipes.percentdelta import made_tasks as settings61
from layerpace.lab.recipes.percentdelta import section_6_1_runs as compare
from layerpace.lab.recipes.percentdelta.section_6_1 import NETWORK, RATINGS, RECIPES, WORDS
from layerpace.lab.recipes.recipe import Data, Scale
from layerpace.lab.recipes.records import Record, Records
from layerpace.lab.tasks import from_reference

CPU = Scale("cpu")
SETTINGS = {"percentdelta-shared-network": NETWORK, "percentdelta-attention": WORDS}
SETTINGS["percentdelta-matrix-factorisation"] = RATINGS


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_tasks_are_the_same_again_and_another_with_another_seed(setting: compare.Setting) -> None:
    arguments = setting.arguments["smoke"]
    task, again = (from_reference(settings61.reference(setting.task, **arguments)) for _ in range(2))
    other = from_reference(settings61.reference(setting.task, **arguments, seed=1))
    assert task.data.fingerprint() == again.data.fingerprint() != other.data.fingerprint()
    torch.manual_seed(0)
    model = task.model()
    assert all(parameter.abs().sum() > 0 for parameter in model.parameters())  # a share of nothing is nothing
    loss = task.loss(model(task.data.train_inputs), task.data.train_targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
    fast = {name for name, _ in model.named_parameters() if setting.fast(name)}
    assert 0 < len(fast) < len(list(model.parameters()))


def test_relations_follow_from_the_two_entities() -> None:
    data = settings61.embeddings(entities=12, train=3000, test=500).data
    pairs: dict[tuple[int, ...], list[int]] = {}
    for pair, relation in zip(data.train_inputs.tolist(), data.train_targets.tolist(), strict=True):
        pairs.setdefault(tuple(pair), []).append(relation)
    often = [relations for relations in pairs.values() if len(relations) >= 10]
    agree = sum(max(map(relations.count, relations)) for relations in often) / sum(map(len, often))
    assert 0.9 < agree < 1.0  # one in twenty is noise
    seen = torch.bincount(data.train_inputs.flatten(), minlength=12)
    assert seen[0] > 3 * seen[11]


def topics(vectors: Tensor, data: Any, classes: int) -> Tensor:
    """Which topic each word names, [words, classes], as far as its vector's place says: words are made in order."""
    a_topic = 300
    named = torch.zeros(len(vectors), classes)
    for topic in range(classes):
        for first in (0, classes * a_topic):
            named[first + topic * a_topic : first + (topic + 1) * a_topic, topic] = 1
    return named[data.test_inputs]


def test_only_the_telling_words_name_a_documents_topic() -> None:
    task = settings61.attention(train=300, test=1000, classes=6)
    vectors = task.model().vectors
    assert isinstance(vectors, Tensor)
    words = topics(vectors, task.data, 6)  # [documents, words, classes]
    telling = (task.data.test_inputs < 6 * 300).float()
    said = (words * telling[..., None]).sum(1)
    assert torch.equal(said.argmax(1), task.data.test_targets) and torch.equal(said.sum(1), said.amax(1))
    assert set(telling.sum(1).tolist()) == {1.0, 2.0, 3.0}
    plain = (words.sum(1).argmax(1) == task.data.test_targets).float().mean()
    assert plain < 0.75  # a plain mean is misled


def test_attention_is_a_convex_combination_of_the_words() -> None:
    task = settings61.attention(train=50, test=10)
    model: Any = task.model()
    documents = task.data.train_inputs[:4]
    x = model.vectors[documents]
    scores = model.attention2(torch.tanh(model.attention1(x))).squeeze(2)
    alpha = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)
    mixed = torch.einsum("nw,nwd->nd", alpha, x)
    expected = model.fc3(torch.relu(model.fc2(torch.relu(model.fc1(mixed)))))
    torch.testing.assert_close(model(documents), expected)
    assert "attention1.weight" not in dict(
        settings61.attention(train=50, test=10, attend=False).model().named_parameters()
    )


def test_factorisation_is_the_papers_equation() -> None:
    task = settings61.factorisation(users=7, movies=5, ratings=30, dim=3)
    model: Any = task.model()
    users, movies = model.users, model.movies
    matrix = users @ movies.T + model.user_bias[:, None] + model.movie_bias[None, :] + model.bias
    pairs = task.data.train_inputs
    torch.testing.assert_close(model(pairs), matrix[pairs[:, 0], pairs[:, 1]])
    minus = task.metric(model(pairs), task.data.train_targets)
    torch.testing.assert_close(-minus.mean(), task.loss(model(pairs), task.data.train_targets))
    assert task.name == "factorisation-made"


def test_ratings_are_made_where_there_are_no_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAYERPACE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task = settings61.factorisation("movielens-100k-or-made", users=7, movies=5, ratings=30)
    assert task.name == "factorisation-made" and "ratings are made instead" in capsys.readouterr().err
    with pytest.raises(UsageError, match="netflix"):
        settings61.factorisation("netflix")
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    for part in ("u1.base", "u1.test"):
        (folder / part).write_text("1\t2\t5\t0\n2\t1\t3\t0\n")
    assert settings61.factorisation("movielens-100k-or-made").name == "factorisation-movielens-100k"


def finish(records: Records, setting: compare.Setting, best: dict[str, float]) -> None:
    """Make all runs, the validation score of a rate the better the nearer it is to the method's best."""
    while new := [one for one in compare.runs(setting, CPU, records) if one not in records]:
        for one in new:
            name = next(name for name, spec in setting.specs.items() if spec == one["method"])
            score = -abs(best[name] - one["lr"])
            result = {"status": "done", "validation_score": score, "test_score": 1 + score}
            records.add(one, Record(one, Path(), result))


def test_rates_are_added_until_the_best_is_inside_and_tests_have_seeds_of_their_own() -> None:
    records = Records()
    best = {"PercentDelta": 3.0, "SGD": 0.1, "Adam": 0.0003, "LARS": 1e6}
    finish(records, WORDS, best)
    rates = {name: list(compare.tuned(WORDS, CPU, records, name)[0]) for name in best}
    assert rates["SGD"] == [0.03, 0.1, 0.3, 1.0]
    assert rates["PercentDelta"] == [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    assert rates["Adam"] == [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03]
    assert len(rates["LARS"]) == compare.MOST_RATES
    requests = compare.runs(WORDS, CPU, records)
    tests = [one for one in requests if "validation" not in one]
    assert {(one["method"], one["lr"]) for one in tests if one["method"] != WORDS.specs["LARS"]} == {
        ("percent-delta", 3.0),
        ("sgd", 0.1),
        ("adam", 0.0003),
    }
    tuning = {one["seed"] for one in requests if "validation" in one}
    assert {one["seed"] for one in tests} == set(range(5)) and not tuning & set(range(5))


def made(test: dict[str, list[float]], ratio: dict[str, list[float]]) -> Data:
    methods = {
        name: {"lr": 0.1, "tuning": [[0.1, 0.9]], "test": values, "steps": [0, 10], "curve": [0.1, 0.9]}
        | {"updates": {"embedding": 1e-3, "fc1": 2e-3, "fc1.bias": 3e-3}, "ratio": ratio.get(name, [0.1, 0.1, 0.12])}
        for name, values in test.items()
    }
    return {"scale": "cpu", "methods": methods}


GOOD, MIDDLE, BAD = [0.91, 0.92, 0.93], [0.80, 0.81, 0.825], [0.70, 0.71, 0.72]
EVEN, APART = [0.1, 0.15, 0.05], [1.9, 2.0, 2.1]


@pytest.mark.parametrize(
    ("percent_delta", "lars", "own", "sgd", "verdicts"),
    [
        (GOOD, GOOD, EVEN, APART, ["holds", "holds", "holds"]),
        (BAD, GOOD, EVEN, EVEN, ["not decided", "does not hold", "holds"]),
        ([0.9, 0.7, 0.8], BAD, APART, EVEN, ["does not hold", "not decided", "does not hold"]),
        (GOOD, GOOD, [-1.9, -2.0, -2.1], APART, ["does not hold", "holds", "holds"]),
    ],
)
def test_settings_are_judged_by_proportion_and_by_sgd(
    percent_delta: list[float], lars: list[float], own: list[float], sgd: list[float], verdicts: list[str]
) -> None:
    data = made({"PercentDelta": percent_delta, "SGD": MIDDLE, "LARS": lars}, {"PercentDelta": own, "SGD": sgd})
    assert [finding.verdict for finding in RECIPES[0].findings(data)] == verdicts
    # Of errors the lower is the better.
    errors = [{"holds": "does not hold", "does not hold": "holds"}.get(verdict, verdict) for verdict in verdicts[1:]]
    assert [finding.verdict for finding in RECIPES[2].findings(data)] == [verdicts[0], *errors]


def test_groups_have_the_geometric_mean_of_their_tensors() -> None:
    speeds = {"embedding": 1e-3, "fc1": 1e-2, "fc1.bias": 1e-4, "fc2": 1e-2, "fc2.bias": 1.0}
    assert compare.ratio(NETWORK, speeds) == pytest.approx(1.0)
    assert compare.ratio(RATINGS, {"users": 1e-3, "movie_bias": 1e-3, "bias": 1e-1}) == pytest.approx(2.0)


def test_the_picture_has_curves_ends_and_tensors() -> None:
    figure = RECIPES[0].draw(made({"PercentDelta": GOOD, "SGD": MIDDLE, "LARS": BAD}, {}))
    curves, ends, speeds = figure.axes
    assert len(curves.lines) == 3 and speeds.get_yscale() == "log"
    assert [label.get_text() for label in speeds.get_xticklabels()] == ["embedding", "fc1", "fc1.bias"]
    assert [np.size(line.get_ydata()) for line in ends.lines] == [3, 2] * 3
