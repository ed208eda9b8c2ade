"""Deliberate breaks of the code, and whether the tests see them: ``python -m tests.house.mutants``.

Each mutant changes one place in a copy of the package; the tests of its topic then run against the copy, and must fail.
``--only NAME ...`` runs some of them, ``--jobs 2`` so many side by side. The tree itself stays as it is. What each was
killed by goes to standard output as a Markdown table. `test_mutants.py` checks that every text still stands in its file
once, so that this list does not go stale.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
PACKAGE = Path("src/layerpace")
LIMIT = 600.0  # seconds of a mutant's tests; one that hangs is killed, too


@dataclass(frozen=True)
class Mutant:
    """A break: in ``file`` the text ``before`` becomes ``after``, and ``tests`` are to fail."""

    name: str
    file: str
    before: str
    after: str
    tests: str


PAPERS = "tests/optim/test_papers.py tests/rules/test_rules.py tests/optim/test_presets.py"
PARITY = "tests/optim/test_torch_parity.py"
SEMANTICS = "tests/optim/test_semantics.py tests/optim/test_citizenship.py"
LOADS = "tests/optim/test_saving.py tests/optim/test_loading.py"
SHARDED = "tests/distributed/test_training.py tests/distributed/test_options.py tests/distributed/test_saving.py"
MONITORS = "tests/monitors"
MIXES = "tests/optim/test_mixes.py"
ROLES = "tests/layers/test_roles.py"
RATES = "tests/layers/test_rates.py"
MUP = "tests/layers/test_mup.py"

MUTANTS = (
    # Rules and clips
    Mutant(
        "trust ratio without the product of w and u",
        "rules/trust_ratio.py",
        'row["uu"] + 2 * decay * row["wu"]',
        'row["uu"] + decay * row["wu"]',
        PAPERS,
    ),
    Mutant(
        "eps of the trust ratio left out",
        "rules/trust_ratio.py",
        'layers.phi(row["ww"]) / (size + self.eps)',
        'layers.phi(row["ww"]) / size',
        PAPERS,
    ),
    Mutant(
        "decay outside of the trust ratio",
        "rules/trust_ratio.py",
        "c = layers.lr * ratio * decay if",
        "c = layers.lr * decay if",
        PAPERS,
    ),
    Mutant(
        "undecayed layers keep their ratio",
        "rules/trust_ratio.py",
        "torch.where(layers.undecayed, 1.0, ratio)",
        "torch.where(layers.undecayed, ratio, ratio)",
        PAPERS,
    ),
    Mutant(
        "percent delta by the sum, not the mean",
        "rules/percent_delta.py",
        "torch.where(total == 0, 0.0, layers.n / total)",
        "torch.where(total == 0, 0.0, 1 / total)",
        PAPERS,
    ),
    Mutant(
        "percent delta jumps on small tensors",
        "rules/percent_delta.py",
        'torch.where(small, row["u_over_floor_l1"], row["u_over_w_l1"])',
        'row["u_over_w_l1"]',
        PAPERS,
    ),
    Mutant(
        "relative L1 of the largest entry",
        "rules/relative_l1.py",
        "layers.min_rms * layers.n)",
        "layers.min_rms)",
        PAPERS,
    ),
    Mutant("rotation without projection", "rules/rotation.py", "ss = uu - p * wu", "ss = uu", PAPERS),
    Mutant(
        "rotation that does not return to the sphere",
        "rules/rotation.py",
        'q = state["initial_norm"] / (ww + k**2 * ss).sqrt()',
        "q = layers.phi(ww) / (ww + k**2 * ss).sqrt()",
        PAPERS + " " + SEMANTICS,
    ),
    Mutant(
        "limited norm grows freely",
        "rules/limits.py",
        "limit = size + self.growth * state",
        "limit = size + 10 * self.growth * state",
        PAPERS,
    ),
    Mutant(
        "identity decays twice",
        "rules/identity.py",
        "c = layers.lr * layers.weight_decay if",
        "c = 2 * layers.lr * layers.weight_decay if",
        PARITY + " " + PAPERS,
    ),
    Mutant(
        "min_rms by the sum of squares",
        "rules/base.py",
        "self.min_rms * self.n.sqrt()",
        "self.min_rms * self.n",
        PAPERS + " " + SEMANTICS,
    ),
    Mutant(
        "running bounds see the step that they clip",
        "rules/clips/moving.py",
        "counts = torch.isfinite(ratio)",
        "counts = torch.isfinite(ratio) & (ratio <= upper)",
        "tests/rules/test_clips.py",
    ),
    Mutant(
        "a falling bound that is late by a step",
        "rules/clips/moving.py",
        "p = before / self.steps",
        "p = (before - 1).clamp(min=0) / self.steps",
        "tests/rules/test_clips.py",
    ),
    Mutant(
        "LARC by the ratio alone",
        "rules/clips/fixed.py",
        "torch.where(ratio < layers.lr, ratio / layers.lr, 1.0)",
        "ratio.clamp(max=1.0)",
        "tests/rules " + PAPERS,
    ),
    # Directions
    Mutant(
        "Adam without the correction of v",
        "directions/adam.py",
        "return divide(m.clone(), v, 1 - beta2**t, self.eps, self.eps_inside_sqrt).div_(1 - beta1**t)",
        "return divide(m.clone(), v, 1.0, self.eps, self.eps_inside_sqrt).div_(1 - beta1**t)",
        PARITY,
    ),
    Mutant(
        "NAdam with this step's momentum twice",
        "directions/adam.py",
        "mu, mu_next = self._mu(t), self._mu(t + 1)",
        "mu, mu_next = self._mu(t), self._mu(t)",
        PARITY,
    ),
    Mutant(
        "RAdam adaptive a step too early",
        "directions/adam.py",
        "rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)",
        "rho = rho_inf - 2 * (t - 1) * beta2**t / (1 - beta2**t)",
        PARITY,
    ),
    Mutant(
        "AdaMax forgets the largest",
        "directions/adam.py",
        'state["exp_inf"].mul_(beta2).maximum_(g.abs()',
        'state["exp_inf"].mul_(0.0).maximum_(g.abs()',
        PARITY,
    ),
    Mutant(
        "Nesterov is heavy ball",
        "directions/sgd.py",
        "return (buffer * self.momentum).add_(g)",
        "return buffer.clone()",
        PARITY,
    ),
    Mutant(
        "dampening from the first step on",
        "directions/sgd.py",
        "return buffer.copy_(g) if t == 1 else",
        "return",
        PARITY,
    ),
    Mutant("a centered RMSProp that is not", "directions/rmsprop.py", "if self.centered:", "if False:", PARITY),
    Mutant(
        "AdaGrad with its decay of rates a step early",
        "directions/adagrad.py",
        "1 + (t - 1) * self.lr_decay) if",
        "1 + t * self.lr_decay) if",
        PARITY,
    ),
    # The step
    Mutant(
        "a rule's memory made anew every step",
        "engine/step.py",
        "memory |= {name: torch.where(first, x, saved[name])",
        "memory |= {name: torch.where(first | True, x, saved[name])",
        PAPERS + " " + SEMANTICS + " " + LOADS,
    ),
    Mutant(
        "excluded parameters decay",
        "engine/step.py",
        "torch.where(excluded_L, 0.0, result.c)",
        "result.c",
        PAPERS + " " + SEMANTICS,
    ),
    Mutant(
        "a clip by half of the gradients' norm",
        "engine/step.py",
        "(max_norm / total.sqrt())",
        "(max_norm / (total / 2).sqrt())",
        PAPERS + " " + SEMANTICS,
    ),
    Mutant(
        "layers with inf step all the same",
        "engine/step.py",
        'masks.append(table["nonfinite"] == 0)',
        'masks.append(table["nonfinite"] >= 0)',
        "tests/engine/test_nonfinite.py",
    ),
    Mutant(
        "a held back layer counts its step",
        "engine/step.py",
        "_counts(work).add_(spread(ok_L, work.layers, Tensors(work.params)))",
        "_counts(work).add_(1)",
        "tests/engine/test_nonfinite.py",
    ),
    Mutant(
        "the phantom step is a step",
        "engine/step.py",
        'masks.append(~phantom | (table["u_l1"] != 0).any())',
        "masks.append(phantom | ~phantom)",
        LOADS + " " + SEMANTICS + " tests/distributed/test_saving.py",
    ),
    Mutant(
        "lr inside of the velocity where it is to be outside",
        "engine/step.py",
        "        b_L = ratio_L\n",
        "",
        "tests/fused/test_agreement.py",
    ),
    Mutant(
        "a velocity without dampening",
        "engine/backends/reference.py",
        "1 - velocity.dampening",
        "1.0",
        PAPERS + " " + PARITY + " " + SEMANTICS,
    ),
    Mutant(
        "a kept plan that does not see new options",
        "engine/cache.py",
        "if known.options is not None and not known.values.same(group):",
        "if False:",
        "tests/engine/test_plans.py",
    ),
    Mutant(
        "a kept plan that does not see a new gradient",
        "engine/cache.py",
        "if any(param.grad is not None for param in self._still):",
        "if False:",
        "tests/engine/test_plans.py",
    ),
    Mutant(
        "segments share one row's number",
        "engine/broadcast.py",
        "segments = [segment for segment, size",
        "segments = [0 * segment for segment, size",
        "tests/layers " + PAPERS,
    ),
    Mutant(
        "no warning of layers of zeros",
        "engine/zeros.py",
        "small & (uu > 0)",
        "small & (uu < 0)",
        "tests/engine/test_zeros.py",
    ),
    # Precision
    Mutant(
        "rounding to nearest, called stochastic",
        "engine/numerics/precision.py",
        ".random_(1 << 16)",
        ".fill_(1 << 15)",
        "tests/engine/test_low_precision.py",
    ),
    Mutant(
        "a master copy that ignores writes",
        "engine/numerics/precision.py",
        "torch.where(master.to(param.dtype) == param, master, w)",
        "master",
        "tests/engine/test_low_precision.py tests/fused/test_tensors.py",
    ),
    Mutant(
        "the L1 sum of u for that of w",
        "engine/numerics/columns.py",
        '"w_l1": lambda x: _l1(x.w)',
        '"w_l1": lambda x: _l1(x.u)',
        PAPERS,
    ),
    # Sharding
    Mutant(
        "rows of one process alone", "engine/sharding/collectives.py", "            add_up(part, group)\n", "", SHARDED
    ),
    Mutant(
        "shards in the other order of the mesh",
        "engine/sharding/shards.py",
        "for k in plain + [k for k in reversed(numbers)",
        "for k in [*reversed(plain)] + [k for k in numbers",
        "tests/distributed/test_places.py",
    ),
    Mutant(
        "pending gradients not added up",
        "engine/sharding/shards.py",
        "    add_up(flat, group)\n",
        "",
        "tests/distributed/test_real.py",
    ),
    Mutant(
        "rows elsewhere do not count steps", "engine/step.py", "        steps.add_(1.0)\n", "        pass\n", SHARDED
    ),
    Mutant(
        "half of a sharded layer's entries",
        "engine/rows.py",
        "self.n += map(float, entry.sizes)",
        "self.n += [size / 2 for size in entry.sizes]",
        SHARDED,
    ),
    # Layers, schedules
    Mutant(
        "alpha from the other end",
        "layers/rates.py",
        "(1 - alpha) ** (5 * (1 - depth))",
        "(1 - alpha) ** (5 * depth)",
        "tests/layers",
    ),
    Mutant(
        "exclude by the first glob alone",
        "layers/selection.py",
        "for pattern in globs_of(exclude))",
        "for pattern in globs_of(exclude)[:1])",
        "tests/layers",
    ),
    Mutant(
        "a polynomial that ends a step early",
        "schedules.py",
        "min(self.last_epoch, self.total_steps) / self.total_steps",
        "min(self.last_epoch + 1, self.total_steps) / self.total_steps",
        "tests/test_schedules.py src/layerpace/schedules.py",
    ),
    # Saving
    Mutant(
        "state by place where names tell",
        "optim/state_names.py",
        "if ours is None or theirs is None or ours == theirs:",
        "if True:",
        LOADS,
    ),
    Mutant(
        "moments below zero are loaded",
        "optim/saving.py",
        "bad = (~(value >= 0) if or_nan else value < 0).any()",
        "bad = (value != value).any() & False",
        LOADS,
    ),
    Mutant(
        "moments lose their precision when loaded",
        "optim/saving.py",
        'dtype = working if name == "master" else moment',
        "dtype = param.dtype",
        LOADS + " tests/engine/test_low_precision.py tests/engine/test_state_dtype.py",
    ),
    Mutant(
        "wrap keeps the inner displacement",
        "optim/wrap.py",
        "self._remember(moved)\n        return loss",
        "return loss",
        "tests/optim/test_wrap.py",
    ),
    # A method per group, and roles
    Mutant(
        "the optimizer's rule for every group",
        "optim/methods.py",
        "return default if own is None else own if",
        "return default if True else own if",
        MIXES,
    ),
    Mutant(
        "the optimizer's direction for every group",
        "optim/methods.py",
        "    if own is None:\n        return type(default)",
        "    if True:\n        return type(default)",
        MIXES,
    ),
    Mutant(
        "a group takes over the other direction's momentum",
        "optim/methods.py",
        "group.setdefault(name, value)\n    if group.get",
        "pass\n    if group.get",
        MIXES,
    ),
    Mutant(
        "another method's numbers are loaded",
        "optim/methods.py",
        "if type(found) is not type(own_rule):",
        "if False:",
        MIXES,
    ),
    Mutant(
        "rows of a rule in another order",
        "engine/step.py",
        "b_L.index_copy_(0, own.rows, found.b)",
        "b_L.index_copy_(0, own.rows.flip(0), found.b)",
        "tests/distributed/test_roles.py",
    ),
    Mutant(
        "a kept plan that does not see that rules part",
        "engine/buckets.py",
        " or _rules(signatures) != self.rules:",
        ":",
        MIXES,
    ),
    Mutant(
        "monitors read the first rule's columns",
        "monitors/reading.py",
        "return own.take(torch.cat([values, sums], 1))",
        "return own.take(torch.cat([values, 2 * sums], 1))",
        MIXES + " tests/monitors/test_values.py",
    ),
    Mutant(
        "the last product is like the others",
        "layers/uses.py",
        "uses[param].last = True",
        "uses[param].last = False",
        ROLES,
    ),
    Mutant("products of features count as raw", "layers/uses.py", "use.raw |= not others", "use.raw = True", ROLES),
    Mutant(
        "tied heads are heads",
        "layers/roles.py",
        'if "embedding" in kinds or (use is not None and use.lookup):',
        'if "embedding" in kinds and not use:',
        ROLES,
    ),
    Mutant(
        "frozen parameters are trained",
        "layers/roles.py",
        "if not entry.parameter.requires_grad:\n            continue",
        "if False:\n            continue",
        ROLES,
    ),
    Mutant("guesses are not warned of", "layers/roles.py", "    _warn(found.doubtful)\n", "", ROLES),
    # Monitors
    Mutant(
        "the angle by its cosine alone",
        "monitors/quantities.py",
        "torch.atan2(sine, ww - wd)",
        "torch.acos(((ww - wd) / (ww * (ww - 2 * wd + dd)).sqrt()).clamp(-1, 1))",
        "tests/monitors/test_values.py tests/monitors/test_measure.py",
    ),
    Mutant(
        "a relative update by the norm after the step",
        "monitors/quantities.py",
        "_share(dd.sqrt(), ww.sqrt())",
        "_share(dd.sqrt(), (ww - 2 * wd + dd).sqrt())",
        "tests/monitors/test_values.py tests/monitors/test_measure.py",
    ),
    Mutant("records of every step for every second", "monitors/monitor.py", "% self.every", "% 1", MONITORS),
    Mutant(
        "a finding of infinite gradients that never comes",
        "monitors/findings/nonfinite.py",
        "    return [finding]",
        "    return []",
        MONITORS,
    ),
    # Rates by layer
    Mutant(
        "a frozen last layer shifts the rates",
        "layers/by_depth.py",
        "last = max(placed, default=0)",
        "last = max((k for k, params in placed.items() if any(p.requires_grad for _, p in params)), default=0)",
        RATES,
    ),
    Mutant(
        "blocks numbered as registered",
        "layers/by_depth.py",
        "order = forward_order(inner, example_input)",
        "order = forward_order(inner, None)",
        RATES,
    ),
    Mutant(
        "what lies between two blocks goes to the head",
        "layers/by_depth.py",
        "elif place > end:",
        "elif depths and depths[-1]:",
        RATES,
    ),
    Mutant(
        "stages taken for blocks",
        "layers/blocks.py",
        "elif self.are_stages(again):",
        "elif False:",
        RATES,
    ),
    Mutant(
        "experts taken for blocks",
        "layers/blocks.py",
        "return len(shapes) == len(siblings) and 2 * sum(staged) > len(siblings)",
        "return any(staged)",
        RATES,
    ),
    Mutant(
        "the scale stands in lr and in lr_scale",
        "layers/groups.py",
        "rate = lr * 1.0 if lr_scale else lr * scale",
        "rate = lr * scale",
        RATES,
    ),
    Mutant(
        "groups share the tensor of their rate",
        "layers/groups.py",
        "start = rate.clone() if isinstance(rate, Tensor) else rate",
        "start = rate",
        RATES,
    ),
    Mutant(
        "muP's SGD without the fan-out",
        "layers/by_width.py",
        "else n_out / n_in",
        "else 1 / n_in",
        MUP,
    ),
    Mutant(
        "muP scales a divided head again",
        "layers/by_width.py",
        "n_in, n_out = 1.0, n_out * n_in",
        "pass",
        MUP,
    ),
    Mutant(
        "muP keeps weight decay instead of its product with lr",
        "layers/groups.py",
        "decay / one.scale if keep_product else decay",
        "decay",
        MUP,
    ),
)


def sources(mutant: Mutant) -> tuple[Path, str]:
    """The file that a mutant changes, and its text."""
    path = ROOT / PACKAGE / mutant.file
    return path, path.read_text()


ASIDE = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__.lower()]
sys.path.insert(0, {source!r})
"""


def make_copy(place: Path) -> None:
    """A copy of what the tests need; Python finds the package in it, and not the one that is installed."""
    for name in ("src", "tests", "benchmarks", "docs", "native"):
        ignored = shutil.ignore_patterns("__pycache__", "results", "CMakeFiles", "*.a")
        shutil.copytree(ROOT / name, place / name, ignore=ignored)
    for name in ("pyproject.toml", "conftest.py", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, place / name)
    (place / "aside").mkdir()
    (place / "aside/sitecustomize.py").write_text(ASIDE.format(source=str(place / "src")))


def killed_by(mutant: Mutant, place: Path) -> str | None:
    """The first test that fails for it; None: it survives."""
    path = place / PACKAGE / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.before, mutant.after))
    env = os.environ | {"PYTHONPATH": str(place / "aside"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--tb=no"]
    try:
        done = subprocess.run(
            [*command, *mutant.tests.split()], cwd=place, env=env, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT:g} s"
    finally:
        path.write_text(text)
    if done.returncode == 0:
        return None
    found = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found[0] if found else f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-200:]!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mutants whose name has one of these in it")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.only or any(part in m.name for part in options.only)]
    places: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="layerpace-mutants-") as folder:
        for job in range(options.jobs):
            make_copy(Path(folder) / str(job))
            places.put(Path(folder) / str(job))

        def run(mutant: Mutant) -> tuple[str | None, float]:
            place, begin = places.get(), time.monotonic()
            try:
                return killed_by(mutant, place), time.monotonic() - begin
            finally:
                places.put(place)

        survived = 0
        print("| mutant | file | killed by | seconds |\n|---|---|---|---|", flush=True)
        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, (by, took) in zip(chosen, pool.map(run, chosen), strict=True):
                survived += by is None
                print(f"| {mutant.name} | `{mutant.file}` | {by or '**survived**'} | {took:.0f} |", flush=True)
    print(f"\n{len(chosen) - survived} of {len(chosen)} killed")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
