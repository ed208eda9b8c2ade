"""`layerpace train`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App

from . import EXIT_USAGE, complain
from .options import DataName, Whole, WholeOrNone, flag

EXAMPLES = """
Examples:

  layerpace train --method lamb:clip=1 --lr 0.01                    # scikit-learn's digits, seconds

  layerpace train --method percent-delta --data mnist --steps 400 --out runs/mnist

  layerpace train --method radam+trust_ratio --task my_task.py:task --seed 3 --resume

  torchrun --nproc-per-node 2 --no-python layerpace train --method lamb --data cifar10 --batch-size 1024
           --lr-scaling sqrt --base-batch-size 128 --warmup 100 --shard fsdp

  torchrun --nproc-per-node 8 --max-restarts 3 --no-python layerpace train --method lars --data cifar10 --device cuda
           --out runs/lars --resume    # goes on by itself when a process is lost
"""


def add(app: App) -> None:
    """Add the command."""

    @app.command(help_epilogue=EXAMPLES)
    def train(
        *,
        method: str = "adam",
        lr: float | None = None,
        data: DataName | None = None,
        data_dir: Path | None = None,
        model: str | None = None,
        task: str | None = None,
        seed: Whole = 0,
        steps: WholeOrNone = None,
        batch_size: WholeOrNone = None,
        accumulate: Whole = 1,
        schedule: str | None = None,
        warmup: Whole = 0,
        lr_scaling: Literal["none", "linear", "sqrt"] = "none",
        base_batch_size: WholeOrNone = None,
        shard: Literal["ddp", "fsdp"] = "ddp",
        device: str = "cpu",
        dtype: Literal["fp32", "bf16"] = "fp32",
        threads: WholeOrNone = None,
        eval_every: WholeOrNone = None,
        eval_size: Whole = 2000,
        record_every: WholeOrNone = None,
        target: float | None = None,
        validation: float = 0.0,
        out: Path | None = None,
        resume: Annotated[bool, flag] = False,
        overwrite: Annotated[bool, flag] = False,
        checkpoint_seconds: float = 15.0,
        json: Annotated[bool, flag] = False,
    ) -> None:
        """Train one model with one method on real data, on one process or, under torchrun, on many.

        Writes a folder with checkpoints, the curve, per-layer records and the final weights; `layerpace watch` shows
        it while it grows. Stopped or killed at any moment, it goes on with --resume, on any number of processes.

        Parameters
        ----------
        method
            NAME or NAME:option=value,... with NAME sgd, nesterov, adam, adamw, radam, lars, lamb, lambc,
            percent-delta, layca, ..., or DIRECTION+RULE such as radam+trust_ratio. Every one has the option alpha, in
            [-1, 1]: below 0 the first layers train faster, above 0 the last (rmsprop: layers.alpha).
            "METHOD; ROLE=METHOD" gives tensors of a role a method of their own, in one optimizer, and prints which
            tensor has which role: "layca; rest=adamw:lr=3e-4". Roles are hidden, expert, input, embedding, head,
            vector; rest is all but hidden and expert.
        lr
            Learning rate; by default the one that `layerpace compare` takes.
        data
            Data set. digits (the default) needs no file; the others are looked for in --data-dir, $LAYERPACE_DATA and
            the user's cache, and downloaded into the cache if absent, by one process of each machine.
            tiny-imagenet and imagenet64 must be there: an error says which files to put where.
        data_dir
            Folder that holds the data: DIR/mnist/..., DIR/cifar-10-batches-bin/..., or the files themselves.
        model
            digits-cnn, percentdelta-cnn, c10-cnn1, c10-cnn1-small, tiny-cnn, torch-blog-vgg, resnet-32, resnet-110,
            wrn-28-10, resnet-18, resnet-18-narrow, mlp, mlp-deep or mlp-784; by default the one that goes with the
            data.
        task
            A task of your own instead of --data and --model: package.module:function or path/to/file.py:function,
            a function that returns a layerpace.lab.Task; with its arguments, if it takes any: "file.py:f(noise=0.1)".
            The code is imported and run with your rights: name none that you do not trust.
        seed
            Of the initial weights and of the order of the data.
        steps
            Training steps (digits: 200).
        batch_size
            Examples a step, of all processes together (digits: 64).
        accumulate
            Parts in which a batch goes through the model, for batches that do not fit into memory; the weights come out
            the same to rounding, but batch normalisation takes its statistics of each part.
        schedule
            Of the learning rate (digits: linear; others: constant). constant; linear, which falls to 1%; cosine, to 0;
            linear:SLOPE[:FLOOR], which loses a share SLOPE of the rate a step, down to FLOOR (0.01);
            steps:0.2@0.8/0.9/0.97, times 0.2 at these shares of the steps. Also an option of --method: schedule=....
        warmup
            Steps over which the rate rises to its full value, before the schedule.
        lr_scaling
            How the rate follows the batch: linear, lr * BATCH / BASE, or sqrt, lr * sqrt(BATCH / BASE), with BASE the
            --base-batch-size that it is meant for.
        base_batch_size
            See --lr-scaling.
        shard
            How the processes of torchrun share the model. ddp: each has all of it, and gradients are averaged; fsdp:
            each keeps a part of every tensor. They share each batch out, so that the weights come out the same for any
            number of them to rounding; but batch normalisation takes its statistics of each process' share, and
            dropout leaves out other units in each process.
        device
            cpu, cuda, cuda:1, ...; under torchrun cuda is the GPU of each process' LOCAL_RANK.
        dtype
            bf16: autocast; the weights stay fp32.
        threads
            CPU threads of a process (digits: 1, the fastest for a model that small; others: one a core).
        eval_every
            Steps between evaluations (digits: 10).
        eval_size
            Test examples of an evaluation; the last one takes all.
        record_every
            Steps between recordings of the layers' updates; by default as --eval-every.
        target
            Score that "steps to target" counts to (digits, mnist: 0.9).
        validation
            Share of the training set held out.
        out
            Folder of the run; by default runs/train-TASK-METHOD-sSEED-HASH, HASH of the settings.
        resume
            Go on with a training that was stopped or killed; start it where there is none.
        overwrite
            Start again in a folder that holds a training.
        checkpoint_seconds
            Least time between checkpoints, which are made at evaluations.
        json
            Print one JSON document on stdout, and nothing else there.
        """
        from ..lab.train_command import run

        if resume and overwrite:
            complain("--resume goes on with what --overwrite deletes: choose one", EXIT_USAGE)
        request: dict[str, Any] = {
            "method": method, "lr": lr, "data": data, "data_dir": None if data_dir is None else str(data_dir),
            "model": model, "task": task, "seed": seed, "steps": steps, "batch_size": batch_size,
            "accumulate": accumulate, "schedule": schedule, "warmup": warmup, "lr_scaling": lr_scaling,
            "base_batch_size": base_batch_size, "device": device, "dtype": dtype, "threads": threads,
            "eval_every": eval_every, "eval_size": eval_size, "record_every": record_every, "target": target,
            "validation": validation, "checkpoint_seconds": checkpoint_seconds,
        }  # fmt: skip
        run(request, out=out, resume=resume, overwrite=overwrite, shard=shard, json=json)
