"""Trainings that go through torch.distributed.checkpoint."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from tests.distributed.layouts import local, whole
from tests.distributed.training import Job, Part, Training
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)


def stage(job: Job, first: int, load: str | None, save: str | None, flat: bool = False) -> Part:
    """Load a checkpoint, train, and save one; each of the two if it is given.

    Args:
        job: of ``job.steps`` steps, from step number ``first``.
        load, save: folders.
        flat: parameter names stand in the keys of the optimizer's state dict.
    """
    training, options = Training(job), StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = training.laid.model, training.optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a process without a group is told that it is one
        if load is not None:
            with torch.no_grad():
                for shard in training.laid.shards:
                    shard.fill_(0.5)  # what is loaded must come from the file
            states = _states(training, options)
            dcp.load(states, checkpoint_id=load)
            set_state_dict(
                model,
                optimizer,
                model_state_dict=states["model"],
                optim_state_dict=states["optimizer"],
                options=options,
            )
        training.run(job.steps, first)
        if save is not None:
            dcp.save(_states(training, options), checkpoint_id=save)
    return training.part()


def _states(training: Training, options: StateDictOptions) -> dict[str, Any]:
    model, optimizer = get_state_dict(training.laid.model, training.optimizer, options=options)
    return {"model": model, "optimizer": optimizer}


def full(job: Job, first: int, load: bytes | None) -> tuple[Part, bytes]:
    """Load whole tensors that rank 0 has, train, and give what rank 0 would write into one file."""
    training = Training(job)
    model, optimizer = training.laid.model, training.optimizer
    alone = not dist.is_initialized()
    if load is not None:
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=not alone)
        mine = torch.load(io.BytesIO(load), weights_only=True) if alone or dist.get_rank() == 0 else ({}, {})
        set_model_state_dict(model, mine[0], options=options)
        set_optimizer_state_dict(model, optimizer, mine[1], options=options)
    training.run(job.steps, first)
    states = get_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    file = io.BytesIO()
    torch.save(states, file)
    return training.part(), file.getvalue()


def round_trip(job: Job) -> tuple[Part, Part]:
    """Hand the optimizer's state to a second one in the same processes; both go on."""
    first, second = Training(job), Training(job)
    first.run(job.steps)
    saved = copy.deepcopy(get_optimizer_state_dict(first.laid.model, first.optimizer))  # torch's optimizers keep it
    with torch.no_grad():
        for mine, other in zip(first.laid.shards, second.laid.shards, strict=True):
            other.copy_(mine)
    set_optimizer_state_dict(second.laid.model, second.optimizer, optim_state_dict=saved)
    return first.run(job.steps, job.steps).part(), second.run(job.steps, job.steps).part()


def phantom(job: Job) -> tuple[dict[str, Any], Part]:
    """Let torch.distributed.checkpoint create the state, and train.

    Returns:
        What its phantom step left: "moved" names whose weights changed, "state" whole tensors by name, "grads" names
        that have a gradient; and the training's outcome.
    """
    training = Training(job)
    laid, state = training.laid, training.optimizer.state
    before = [shard.clone() for shard in laid.shards]
    get_optimizer_state_dict(laid.model, training.optimizer)
    each = list(zip(laid.names, laid.params, strict=True))
    left: dict[str, Any] = {
        "moved": [name for (name, p), old in zip(each, before, strict=True) if not torch.equal(local(p), old)],
        "state": {name: {key: whole(x) for key, x in state[p].items() if isinstance(x, Tensor)} for name, p in each},
        "grads": [name for name, p in each if p.grad is not None],
    }
    return left, training.run(job.steps).part()
