"""`layerpace compare`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App

from . import EXIT_USAGE, complain
from .options import DataName, Whole, WholeOrNone, flag, many

EXAMPLES = """
Examples:

  layerpace compare                      # seven methods on scikit-learn's digits, under a minute

  layerpace compare --methods adam lamb:lr=0.01,clip=1 radam+trust_ratio

  layerpace compare --methods adam:lr=3e-4/1e-3/3e-3 percent-delta:lr=0.01/0.03 --seeds 5

  layerpace compare --data mnist --batch-size 500 --steps 200 --dtype bf16 --lr-grid 0.001 0.01

  layerpace compare --task my_task.py:task --out runs/mine

  torchrun --nproc-per-node 4 --no-python layerpace compare --data cifar10 --batch-size 2048 --out runs/large
"""


def add(app: App) -> None:
    """Add the command."""

    @app.command(help_epilogue=EXAMPLES)
    def compare(
        *,
        data: DataName = "digits",
        data_dir: Path | None = None,
        model: str | None = None,
        task: str | None = None,
        methods: Annotated[tuple[str, ...] | None, many] = None,
        lr_grid: Annotated[tuple[float, ...], many] = (),
        choose: Literal["score", "steps"] = "score",
        seeds: Whole = 3,
        steps: WholeOrNone = None,
        batch_size: WholeOrNone = None,
        schedule: str | None = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16"] = "fp32",
        threads: WholeOrNone = None,
        eval_every: WholeOrNone = None,
        eval_size: Whole = 2000,
        record_every: WholeOrNone = None,
        accumulate: Whole = 1,
        warmup: Whole = 0,
        lr_scaling: Literal["none", "linear", "sqrt"] = "none",
        base_batch_size: WholeOrNone = None,
        shard: Literal["ddp", "fsdp"] = "ddp",
        target: float | None = None,
        validation: float | None = None,
        out: Path | None = None,
        resume: Annotated[bool, flag] = False,
        overwrite: Annotated[bool, flag] = False,
        checkpoint_seconds: float = 15.0,
        json: Annotated[bool, flag] = False,
    ) -> None:
        """Train one model with several optimizers on real data: which trains best, and how evenly do its layers train?

        Every method starts from the same weights and sees the same batches. Prints a table and writes a
        folder with curves, per-layer records and plots. Stopped at any moment, it goes on with --resume.

        Parameters
        ----------
        data
            Data set. digits needs no file; the others are looked for in --data-dir, $LAYERPACE_DATA and the
            user's cache, and downloaded into the cache if absent. tiny-imagenet and
            imagenet64 must be there: an error says which files to put where.
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
        methods
            NAME or NAME:option=value,... with NAME sgd, nesterov, adam, adamw, radam, lars, lamb, lambc,
            percent-delta, layca, ..., or DIRECTION+RULE such as radam+trust_ratio. lr=0.001/0.003 gives rates to try.
            Every one has the option alpha, in [-1, 1]: below 0 the first layers train faster, above 0 the last
            (rmsprop: layers.alpha).
            "METHOD; ROLE=METHOD" gives tensors of a role a method of their own, in one optimizer, and prints which
            tensor has which role: "layca; rest=adamw:lr=3e-4". Roles are hidden, expert, input, embedding, head,
            vector; rest is all but hidden and expert.
        lr_grid
            Learning rates to try for every method named without an lr.
        choose
            How a method's rate is chosen among several, on held-out training examples: the highest final score, or
            the fewest steps to the target.
        seeds
            Runs of each method and rate, with seeds 0, 1, ...
        steps
            Training steps of a run (digits: 200).
        batch_size
            Examples a step, of all processes together (digits: 64).
        schedule
            Of the learning rate (digits: linear; others: constant). constant; linear, which falls to 1%; cosine, to 0;
            linear:SLOPE[:FLOOR], which loses a share SLOPE of the rate a step, down to FLOOR (0.01);
            steps:0.2@0.8/0.9/0.97, times 0.2 at these shares of the steps. For one method: NAME:schedule=constant.
        device
            cpu, cuda, cuda:1, ...
        dtype
            bf16: autocast; the weights stay fp32.
        threads
            CPU threads (digits: 1, the fastest for a model that small; others: one a core).
        eval_every
            Steps between evaluations (digits: 10).
        eval_size
            Test examples of an evaluation; the last one takes all.
        record_every
            Steps between recordings of the layers' updates; by default as --eval-every.
        accumulate
            Parts in which a batch goes through the model, for batches that do not fit into memory; the weights come out
            the same to rounding, but batch normalisation takes its statistics of each part.
        warmup
            Steps over which the rate rises to its full value, before the schedule.
        lr_scaling
            How rates follow the batch: linear, lr * BATCH / BASE, or sqrt, lr * sqrt(BATCH / BASE), with BASE the
            --base-batch-size that they are meant for.
        base_batch_size
            See --lr-scaling.
        shard
            How the processes of torchrun share the model. ddp: each has all of it, and gradients are averaged; fsdp:
            each keeps a part of every tensor. They share each batch out, so that the weights come out the same for any
            number of them to rounding; but batch normalisation takes its statistics of each process' share, and
            dropout leaves out other units in each process.
        target
            Score that "steps to" counts to (digits, mnist: 0.9).
        validation
            Share of the training set held out; by default 0.1 if rates are to be chosen, else 0.
        out
            Folder for the results; by default runs/compare-TASK-HASH, HASH of the settings.
        resume
            Go on with a comparison that was stopped; finished runs are not repeated.
        overwrite
            Start again in a folder that holds a comparison.
        checkpoint_seconds
            Least time between checkpoints of a run.
        json
            Print one JSON document on stdout, and nothing else there.
        """
        from ..lab.compare_command import run
        from ..lab.methods import DEFAULT_METHODS

        if task is not None and (model is not None or data != "digits" or data_dir is not None):
            complain("--task brings its own data and model: leave out --data, --data-dir and --model", EXIT_USAGE)
        if resume and overwrite:
            complain("--resume goes on with what --overwrite deletes: choose one", EXIT_USAGE)
        positive = {
            "--seeds": seeds, "--steps": steps, "--batch-size": batch_size, "--threads": threads,
            "--eval-every": eval_every, "--eval-size": eval_size, "--record-every": record_every,
            "--accumulate": accumulate, "--base-batch-size": base_batch_size,
        }  # fmt: skip
        for name, value in positive.items():
            if value is not None and value < 1:
                complain(f"{name} {value}: must be at least 1", EXIT_USAGE)
        request: dict[str, Any] = {
            "methods": DEFAULT_METHODS if methods is None else methods,
            "lr_grid": lr_grid, "choose": choose, "seeds": seeds, "steps": steps, "batch_size": batch_size,
            "schedule": schedule, "device": device, "dtype": dtype, "threads": threads, "eval_every": eval_every,
            "eval_size": eval_size, "record_every": record_every, "target": target, "validation": validation,
            "accumulate": accumulate, "warmup": warmup, "lr_scaling": lr_scaling, "base_batch_size": base_batch_size,
            "shard": shard, "out": out, "resume": resume, "overwrite": overwrite,
            "checkpoint_seconds": checkpoint_seconds,
        }  # fmt: skip
        run(request, data=data, data_dir=data_dir, model=model, task=task, json=json)
