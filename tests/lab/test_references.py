"""Tasks by reference, with arguments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from layerpace.lab.errors import UsageError
from layerpace.lab.references import Reference
from layerpace.lab.single import resolve, stamp
from layerpace.lab.tasks import from_reference

TASK = """
import torch
from layerpace.lab import Dataset, Task

def task(train=64, noise=0.0, model="mlp", *, labels={}):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(train + 32, 6, generator=generator)
    targets = (inputs[:, 0] > noise).long()
    data = Dataset(inputs[:train], targets[:train], inputs[train:], targets[train:], 2)
    net = lambda: torch.nn.Linear(6, 2)
    return Task(f"{model}-{train}", data, net, batch_size=16, steps=4, eval_every=4, threads=1)

def plain():
    return task()

def needy(n):
    return task(n)

def open(**options):
    return task(**options)
"""


@pytest.fixture(autouse=True)
def own_task(own_folder: None) -> None:
    Path("mine.py").write_text(TASK)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b:f", ("a.b", "f", {})),
        ("a.b:f()", ("a.b", "f", {})),
        ("a.py:f(train=10000, model='mlp')", ("a.py", "f", {"train": 10000, "model": "mlp"})),
        ("a.py:f(text='x:y(z)', pair=(1, -2.5), none=None)",
         ("a.py", "f", {"text": "x:y(z)", "pair": (1, -2.5), "none": None})),
        ("C:/my (own)/a.py:f(n=1)", ("C:/my (own)/a.py", "f", {"n": 1})),
        ("a:b/c.py:f(table={'a:b': [1]})", ("a:b/c.py", "f", {"table": {"a:b": [1]}})),
    ],
)  # fmt: skip
def test_a_reference_is_read(text: str, expected: tuple[Any, ...]) -> None:
    found = Reference.of(text)
    assert (found.place, found.name, found.arguments) == expected


def test_a_task_gets_its_arguments_and_keeps_its_name() -> None:
    task = from_reference("mine.py:task(train=40, model='a:b', noise=0.5)")
    assert task.name == "a:b-40" and len(task.data.train_inputs) == 40
    assert task.source.startswith("mine.py:task(train=40, model='a:b', noise=0.5) ")
    assert from_reference("mine.py:open(train=20)").name == "mlp-20"
    noisy, clean = from_reference("mine.py:task(noise=0.5)"), from_reference("mine.py:task")
    assert noisy.data.fingerprint() != clean.data.fingerprint()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("task(trian=3)", "task() has no argument 'trian' (did you mean train?); it has train, noise, model, labels"),
        ("plain(n=1)", "plain() has no argument 'n'; it has none"),
        ("needy", "needy(): missing a required argument: 'n'"),
        ("task(model=mlp)", "model=mlp is not a literal: write a number, 'text', True, None or (1, 2)"),
        ("task(train=len('ab'))", "train=len('ab') is not a literal"),
        ("task(3)", "name every argument, as in (noise=0.1)"),
        ("task(**{'train': 3})", "name every argument"),
        ("task(train=)", "(train=) is no list of arguments"),
        ("task(train=1, train=2)", "train is there twice"),
        ("task(train=1)(n=2)", "is no list of arguments such as (noise=0.1)"),
        ("task(train=1", "write package.module:function or path/to/file.py:function"),
        ("open(n=1)", "TypeError: task() got an unexpected keyword argument 'n'"),
        ("task(train='many')", "TypeError: "),
    ],
)
def test_wrong_arguments_are_one_line(call: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)) as error:
        from_reference(f"mine.py:{call}")
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--task mine.py:{call}: ")


def test_a_config_knows_a_task_with_arguments_again_and_hears_of_its_file() -> None:
    reference = "mine.py:task(train=40, model='a:b')"
    config = resolve({"task": reference, "method": "sgd"})
    assert config["task"] == reference and config["name"] == "a:b-40"
    assert resolve(config) == config
    assert resolve({"task": "mine.py:task(train=48, model='a:b')", "method": "sgd"}) != config
    assert stamp(reference) == stamp("mine.py:task") == Path("mine.py").stat().st_mtime
    assert stamp("no.module:task(n=1)") is stamp("mine.py:task(") is stamp(None) is None
