"""Command lines that are made to break `layerpace`: every option of every command with values that nobody means.

    for line in lines(): ...        # ["train", "--steps", "1.5"], ...; the same for the same seed

None of them trains anything large: where a value is right after all, the task is tiny (`half.py`).
"""

from __future__ import annotations

import random

from tests.hostile import NAUGHTY

HUGE, DIGITS = "9" * 30, "1" + "0" * 4999
NUMBERS = ["", "-1", "0", "1.5", "1e3", "nan", "inf", "-inf", "1e308", "1e-320", HUGE, DIGITS, "0x10", "١٢", "1_0",
           " 2", "two", "--", "-", NAUGHTY, "1;2", "1,2", "100000", "2147483648", "9223372036854775808"]  # fmt: skip
WORDS = ["", " ", "..", "/", "none", "a" * 5000, NAUGHTY, "*", "[", "{}", "$(id)", "\udcff", "\x00x", "-x", "--steps",
         "é", "a:b", ":", "a.py:", "cpu:7", "mps", "meta", "fsdp", "cuda:999999999999", "xla", "gpu"]  # fmt: skip
PATHS = ["", "half.py", "/dev/null", "/proc/self/mem", "/nowhere/at/all", "a" * 300, "a/" * 3000, NAUGHTY, "\x00",
         "\udcff", "-", "~", "loop", "pipe", "*", "half.py/below"]  # fmt: skip
WRITTEN = [path for path in PATHS if not path.startswith("/")]  # a test writes nowhere but into its own folder
METHODS = [
    "", ":", "adam:", "adam:=", "adam:lr", "adam:lr=", "adam:lr=x", "adam:lr=1/0", "adam:lr=nan", "adam:lr=inf",
    "adam:lr=-1", "adam:lr=1e308", "adam:weight_decay=1e308", f"adam:weight_decay={HUGE}", f"adam:wd={'9' * 400}",
    "adam:wd=-1", "adam:wd=nan", "adam:backend=triton", "adam:backend=7", "adam:betas=1", "adam:betas=0/1",
    "adam:betas=(0.9,", "adam:eps=0", "adam:eps=None", f"adam:eps={'(' * 300}1", f"adam:eps={'-' * 6000}1",
    f"adam:{',' * 20000}", "adam:exclude=[", "adam:exclude=7", "adam:nope=1", "adam:alpha=9", "adam:alpha=x",
    "adam:schedule=x", "adam:schedule=steps:2@0.5", f"adam:schedule=linear:{HUGE}", "adam:segments=rows",
    "adam:{[]:1}=2", "adam:wd={[]:1}", "adam:nonfinite=x", "adam:state_dtype=fp8", "adam:max_grad_norm=-1",
    "lamb:clip=(1.0,None)", "lamb:clip=0", "lamb:clip=x", "lamb:eps=1e400", "lars:coefficient=nan", "layca:min_rms=-1",
    "layca:wd=0.1", "adam+trust_ratio:rule.eps=-1", "adam+x", "x+trust_ratio", "+", "adam+", "+trust_ratio",
    "sgd:momentum=2", "sgd:momentum=True", "sgd:momentum='x'", "sgd:dampening=9", NAUGHTY, f"adam:{NAUGHTY}=1",
    f"adam:wd={NAUGHTY}", "__import__:x=1", "adam:wd=__import__('os')", "adam:low_precision=yes", "percent-delta:lr=0",
    "a" * 5000, "adam:lr=" + "/".join(["0.1"] * 3000),
]  # fmt: skip
TASKS = ["", ":", "half.py", "half.py:", ":task", "half.py:none", "none.py:task", "none:task", "half.py:task(",
         "half.py:task(1)", "half.py:task(a=1)", "half.py:task(a=1)(b=2)", "half.py:bad", "half.py:wrong",
         f"half.py:task(a={'(' * 300})", f"half.py:task(a={'-' * 5000}1)", "half.py:task(**{})", NAUGHTY + ".py:f",
         ":a(" * 3000, "/dev/null:f", "broken.py:task", "os:getcwd", "half.py:task(a={[]: 1})"]  # fmt: skip
SPECS = ["", ".toml", "none.toml", "half.py", "half.py:none", "half.py:specless", "none.py:f", ":", "os:getcwd",
         "deep.toml", "huge.toml", "wide.toml", "bytes.toml", "empty.toml", "types.toml", "lists.toml", "dates.toml",
         "runner.toml", "method.toml", "steps.toml", "optuna.toml", "rates.toml", "names.toml", "loop.toml",
         "/dev/null", NAUGHTY + ".toml", "a" * 300 + ".toml", "pipe"]  # fmt: skip

TINY = ["--task", "half.py:task", "--steps", "2", "--out", "out", "--overwrite"]
NUMERIC = {
    "train": ["--lr", "--seed", "--steps", "--batch-size", "--accumulate", "--warmup", "--base-batch-size", "--threads",
              "--eval-every", "--eval-size", "--record-every", "--target", "--validation", "--checkpoint-seconds"],
    "compare": ["--lr-grid", "--seeds", "--steps", "--batch-size", "--threads", "--eval-every", "--eval-size",
                "--record-every", "--accumulate", "--warmup", "--base-batch-size", "--target", "--validation",
                "--checkpoint-seconds"],
    "sweep": ["--jobs", "--retries"],
    "reproduce": ["--jobs"],
    "watch": ["--every"],
}  # fmt: skip
WORDED = {
    "train": ["--data", "--model", "--schedule", "--lr-scaling", "--shard", "--device", "--dtype"],
    "compare": ["--data", "--model", "--schedule", "--lr-scaling", "--shard", "--device", "--dtype", "--choose"],
    "sweep": ["--executor", "--address"],
    "reproduce": ["--scale", "--device", "--executor", "--address"],
    "watch": ["--layers", "--sort", "--run"],
    "results": ["--columns", "--sort", "--where"],
    "report": ["--title"],
}
PATHED = {"train": ["--data-dir", "--out"], "compare": ["--data-dir", "--out"], "sweep": ["--out"],
          "reproduce": ["--results", "--data-dir"], "results": ["--out"], "report": ["--out"]}  # fmt: skip
BASES = {
    "train": ["train", *TINY],
    "compare": ["compare", *TINY, "--seeds", "1", "--methods", "sgd"],
    "sweep": ["sweep", "names.toml", "--dry-run"],
    "reproduce": ["reproduce", "percentdelta-figure-1", "--redraw", "--out", "reproduced"],
    "watch": ["watch", "run", "--once"],
    "results": ["results", "run"],
    "report": ["report", "run"],
}
OTHERS = [
    [], [""], ["-"], ["--"], ["nope"], [NAUGHTY], ["train", "train"], ["--version", "x"], ["train", "--nope", "1"],
    ["train", f"--{NAUGHTY}"], ["train", "--steps"], ["train", "--resume", "--overwrite"],
    [*BASES["compare"], "--methods"],
    ["compare", "--resume", "--overwrite"], ["sweep"], ["watch"], ["report"], ["results"], ["reproduce"],
    ["reproduce", NAUGHTY], ["reproduce", "all", "--list", "--page"], ["reproduce", "--page", "--json"],
    ["results", "run", "--descending"], ["results", "run", "--curves", "--columns", "nope"],
    ["train", "--task", "half.py:task", "--data", "digits"], ["train", "--steps", "1", "--steps", "2"],
    ["watch", "run", "run"], ["train", "--json", "x"], ["train", "--resume=maybe"], ["train", "--steps", "2", "x"],
]  # fmt: skip


def lines(seed: int = 0, drawn: int = 120) -> list[list[str]]:
    """Each kind of value once where it is most at home, and as many more drawn for other options."""
    draw = random.Random(seed)
    found = [*OTHERS]
    found += [[*BASES["train"], "--method", method] for method in METHODS]
    found += [["train", "--task", task, "--steps", "1", "--out", "out", "--overwrite"] for task in TASKS]
    found += [["sweep", spec, "--dry-run"] for spec in SPECS]
    found += [[command, *BASES[command][1:], option, value] for command, options in (*NUMERIC.items(), *WORDED.items())
              for option in options for value in draw.sample(NUMBERS if options is NUMERIC.get(command) else WORDS, 2)
              ]  # fmt: skip
    found += [
        [*BASES[command], option, draw.choice(WRITTEN)] for command, options in PATHED.items() for option in options
    ]
    found += [[command, path, *(["--once"] if command == "watch" else [])]
              for command in ("watch", "report", "results") for path in PATHS]  # fmt: skip
    for _ in range(drawn):
        command = draw.choice(sorted(BASES))
        line = [*BASES[command]]
        for _ in range(draw.randrange(1, 3)):
            kind = draw.choice([table for table in (NUMERIC, WORDED, PATHED) if command in table])
            pool = NUMBERS if kind is NUMERIC else WORDS if kind is WORDED else WRITTEN
            line += [draw.choice(kind[command]), draw.choice(pool)]
        found.append(line)
    return found


FILES = {
    "half.py": """
import torch
from torch import nn
from layerpace.lab import Dataset, Task

def task():
    inputs = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
    targets = (inputs[:, 0] > 0).long()
    data = Dataset(inputs[:64], targets[:64], inputs[64:], targets[64:], classes=2)
    return Task("half", data, lambda: nn.Linear(6, 2), batch_size=16, steps=2, eval_every=2, threads=1)

def bad():
    raise RuntimeError("\\x1b[31mbad\\n\\nbad")

def wrong():
    return "\\x1b[31m"

def specless():
    return [1, 2]
""",
    "broken.py": "def task(:\n",
    "deep.toml": "a = " + "[" * 5000 + "]" * 5000,
    "huge.toml": "[grid]\n" + "\n".join(f"a{k} = {list(range(10))}" for k in range(10)),
    "wide.toml": f"[base]\nseed = {'9' * 400}\n",
    "empty.toml": "",
    "types.toml": "base = 3\ngrid = []\nruns = 'x'\n",
    "lists.toml": "[grid]\nlr = []\n",
    "dates.toml": "[base]\nlr = 2020-01-01\n",
    "runner.toml": "runner = 'os:system'\n[grid]\nseed = [0, 1]\n",
    "method.toml": "[grid]\nmethod = ['adma', 3]\n",
    "steps.toml": "[base]\nsteps = 1.5\n",
    "optuna.toml": "[base]\nvalidation = 0.1\n[search]\nkind = 'optuna'\ntrials = 99999999999\nspace = {lr = 3}\n",
    "rates.toml": "[base]\nvalidation = 0.1\n[search]\nkind = 'rates'\nfactor = 1e300\nlimit = 999999999\n",
    "names.toml": 'runner = "no:where"\n[grid]\n"k\\u001b[31m\\u202e" = ["\\u001b]0;x\\u0007", "b\\nc"]\n',
    "loop.toml": "[base]\ntask = 'half.py:task(a=1)'\n",
}
