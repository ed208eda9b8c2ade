"""Tasks that several recipes train, by reference: task = "layerpace.recipes.tasks:images(data='cifar10', train=10000)".

Arguments of a reference are literals, so that the request of a run says all of what it trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..data import load, subset
from ..digits import digits_as
from ..errors import UsageError
from ..models import DEFAULT_MODEL, MODELS
from ..tasks import Task

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
HERE = "layerpace.recipes.tasks"


def reference(function: str, **arguments: Any) -> str:
    """The reference of a task of this module: "layerpace.recipes.tasks:images(data='mnist')"."""
    return f"{HERE}:{call(function, arguments)}"


def call(function: str, arguments: Mapping[str, Any]) -> str:
    return f"{function}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def images(
    data: str = "mnist",
    model: str | None = None,
    train: int | None = None,
    test: int | None = None,
    per_class: int | None = None,
    augment: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Classification of images.

    Args:
        data: a data set of the lab; "digits-as-mnist" and "digits-as-cifar10" are scikit-learn's digits in the shape of
            the other one, which need no files.
        model: of the lab; None: the one that goes with the data.
        train, test: the first so many examples; None: all.
        per_class: so many training examples of each class instead.
        augment: shifts and flips, as the layer rotation paper has them.
        options: keywords of the model, such as {"width": 64}.

    Raises:
        UsageError: an unknown data set, model, or option of it.
    """
    like = data.removeprefix("digits-as-")
    if like != data and like not in SHAPES:
        raise UsageError(f"data {data!r}: digits can stand for {', '.join(SHAPES)}")
    dataset = load(data) if like == data else digits_as(SHAPES[like])
    dataset = subset(dataset, train=train, test=test, per_class=per_class)
    model = model or DEFAULT_MODEL[like]
    if model not in MODELS:
        raise UsageError(f"unknown model {model!r}: choose from {', '.join(MODELS)}")
    task = Task(
        name=f"{data}-{model}",
        data=dataset,
        model=partial(MODELS[model], dataset.input_shape, dataset.classes, **(options or {})),
    )
    if augment:
        from ..augment import shift_and_flip

        task = dataclasses.replace(task, augment=shift_and_flip)
    return task
