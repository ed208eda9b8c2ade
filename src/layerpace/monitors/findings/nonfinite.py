"""Values that are not finite, and where they came up first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layerpace.monitors.findings.finding import Finding, named, percent, verb
from layerpace.monitors.findings.view import NORMS, View

WORDS = {"weight_norm": "weights", "grad_norm": "gradients", "update_norm": "updates"}


def nonfinite(view: View) -> list[Finding]:
    """Non-finite weights, gradients, updates and losses."""
    bad = {name: torch.isinf(view[name]) for name in NORMS}
    rows = torch.stack(list(bad.values())).any(0).any(1)
    if not rows.any():
        return _loss(view)
    first = int(rows.nonzero()[0])
    if ruined_at(view) is None:
        return _passing(view, bad["grad_norm"])
    step, measured = view.steps[first], view.measured[first]
    here = {name: flags[first] for name, flags in bad.items()}
    hit = torch.stack(list(here.values())).any(0)
    names, total = view.names(hit), int(measured.sum())
    parts = [
        f"{WORDS[name]} of {int(flags.sum())} of {total} layers" for name, flags in here.items() if bool(flags.any())
    ]
    before = f"step {view.steps[first - 1]} was finite" if first else "there is no record before it"
    evidence = f"not finite at step {step}: {', '.join(parts)}; {before}"
    finding = Finding(
        kind="nonfinite",
        severity="error",
        layers=names,
        steps=(step, view.steps[int(rows.nonzero()[-1])]),
        message=f"Values were first not finite at step {step}: {_origin(view, here, measured)}",
        evidence=evidence + _of_losses(view),
        suggestion=_suggestion(view, first),
    )
    return [finding]


def ruined_at(view: View) -> int | None:
    """The place of the first record from which the training did not recover: weights that are not finite, or gradients
    up to the end; None: there is none."""
    last = torch.stack([torch.isinf(view[name]) for name in ("weight_norm", "update_norm")]).any(0).any(1)
    gradients = torch.isinf(view["grad_norm"]).any(1)
    if len(view.steps) and bool(gradients[-1]):
        whole = (~gradients).nonzero()
        tail = int(whole[-1]) + 1 if len(whole) else 0
        last = last.clone()
        last[tail] = True
    found = last.nonzero()
    return int(found[0]) if len(found) else None


def _origin(view: View, here: dict[str, Tensor], measured: Tensor) -> str:
    """Which layer was first, as far as a record can tell."""
    weights, gradients = here["weight_norm"], here["grad_norm"]
    if bool(weights.any()):
        names = view.names(weights)
        if int(weights.sum()) == int(measured.sum()):
            return "the weights of all layers at once. The cause lies between this record and the one before."
        return f"the weights of {named(names, view.layers)}, while those of the other layers were still finite."
    names = view.names(gradients)
    if not names:
        updated = view.names(here["update_norm"])
        return f"the updates of {named(updated, view.layers)}, from gradients that were finite."
    if len(names) == int(measured.sum()) > 1:
        return "the gradients of all layers at once, so the loss itself was not finite or had no finite gradient."
    if len(names) == 1:
        return f"the gradient of `{names[0]}`, while those of the other layers were finite."
    return (
        f"the gradients of {named(names, view.layers)}. Gradients go from output to input, so `{names[-1]}`, the last "
        "of "
        f"them from the input, or what follows it, is where they came up."
    )


def _suggestion(view: View, first: int) -> str:
    gap = first and view.steps[first] - view.steps[first - 1] > 1
    where = "record every step (every=1) around there to see the first layer; " if gap else ""
    skip = "" if view.uses.skips else 'nonfinite="skip" leaves such steps out, and '
    return (
        f"{where}look for log or division by zero and for overflow in half precision there, {view.uses.slower}; "
        f"{skip}torch.autograd.detect_anomaly names the operation."
    )


def _passing(view: View, bad: Tensor) -> list[Finding]:
    """Gradients that were not finite at times, and harmed no weight."""
    rows, layers = bad.any(1), bad.any(0)
    share = float(rows.double().mean())
    steps = [view.steps[place] for place in rows.nonzero()[:, 0].tolist()]
    names = view.names(layers)
    return [
        Finding(
            kind="nonfinite_steps",
            severity="warning" if share > 0.05 and len(steps) > 2 else "note",
            layers=names,
            steps=(steps[0], steps[-1]),
            message=f"The gradients of {named(names, view.layers)} {verb(names, 'was', 'were')} not finite at times; "
            "the weights stayed finite.".replace("gradients of", "gradient of" if len(names) == 1 else "gradients of"),
            evidence=f"{len(steps)} of {len(view.steps)} records ({percent(share)})",
            suggestion="some such steps are usual while a loss scale is found; if they go on, lower the learning rate "
            "or the loss scale.",
        )
    ]


def _of_losses(view: View) -> str:
    found = [_first_bad(view, name) for name in view.losses]
    steps = [f"; `{name}` from step {step}" for name, step in zip(view.losses, found, strict=True) if step is not None]
    return "".join(steps)


def _first_bad(view: View, name: str) -> int | None:
    series = view.run.scalars[name]
    return next((s for s, v in zip(series.steps, series.values, strict=True) if not math.isfinite(v)), None)


def _loss(view: View) -> list[Finding]:
    """A loss that is not finite while all layers are."""
    found = []
    for name in view.losses:
        series = view.run.scalars[name]
        steps = [s for s, v in zip(series.steps, series.values, strict=True) if not math.isfinite(v)]
        if steps:
            found.append(
                Finding(
                    kind="nonfinite_loss",
                    severity="error" if steps[-1] == series.steps[-1] else "warning",
                    layers=(),
                    steps=(steps[0], steps[-1]),
                    message=f"`{name}` was not finite, though no layer was in any record.",
                    evidence=f"{len(steps)} of {len(series.steps)} values, first at step {steps[0]}",
                    suggestion="look for log or division by zero in the loss, and for batches without a valid target.",
                )
            )
    return found
