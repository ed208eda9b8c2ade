r"""Rates that carry over: from a tuned AdamW or SGD, watched for a while, to the rate of a layer-wise method.

A layer-wise method at a rate of its own moves layers as far as the source does, on the median, if the rates are::

    s  = |D| / |W|          relative update of a step, per layer (L2), and s1 the same in L1
    LAMB                    lr = s
    LARS(momentum mu)       lr = s * (1 - mu) / rho
    PercentDelta            lr = s1 * K / rho
    RelativeL1              lr = s1, with the direction of the source
    Layca                   lr = tan(angle between W and W - D)

rho says how much of the length of single gradients is left when they are averaged, as momentum does: LARS and
PercentDelta measure single gradients, and their velocity averages them. It is read from the source: |D|/(lr*sqrt(n))
with Adam, whose u is an average over a root mean square, and |D|*(1 - mu)/(lr*|g|) with SGD. K = mean|w| * mean(1/|w|)
is what lies between the mean of |d/w|, which PercentDelta sets, and the share of the L1 norms; for normal weights it is
2/pi*ln(n). Numbers of a layer are medians over the records, per unit of the source's rate; those of all layers their
median, times the source's largest rate. So a schedule carries over as it is.

With lr matched, LAMB's decay of a layer is lr*ratio*lambda = (lr of the source)*lambda on the median: lambda carries
over as it is, and so it does to LARS. Layca, PercentDelta and RelativeL1 get none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerpace.engine.common.checks import check_number
from layerpace.monitors.run import Run, run_of

if TYPE_CHECKING:
    from layerpace.monitors.monitor import Monitor

FEWEST = 3  # records
WARM = 0.5  # of the largest rate: records below it are of a warm-up, or of the end of a schedule
SMALLEST_RHO = 0.02
APART = 30.0  # largest over smallest relative update of the layers, from which on their median says little
MOMENTUM = 0.9
QUARTILES = (0.25, 0.5, 0.75)


class NoRates(ValueError):
    """A run says nothing of rates; the message says why."""


@dataclass(frozen=True)
class Rate:
    """The rate of one method.

    Attributes:
        method: the name of its class in `layerpace`.
        lr: the rate, at the source's largest rate.
        low, high: quartiles over the layers: half of them would by themselves ask for a rate in between.
        layers: how many layers that is of.
        more: further options that belong to it.
    """

    method: str
    lr: float
    low: float
    high: float
    layers: int
    more: Mapping[str, Any]

    def options(self) -> dict[str, Any]:
        """Keyword arguments: ``lp.LAMB(model, **rates["LAMB"].options())``."""
        return {"lr": self.lr, **self.more}


class Rates(Mapping[str, Rate]):
    """{method: `Rate`}, printed as a table.

    Attributes:
        source: what was watched, in words.
        steps: (first, last) of the records that count.
        assumes: what the rates rest on, a line each.
    """

    def __init__(self, rates: list[Rate], source: str, steps: tuple[int, int], assumes: list[str]) -> None:
        self._rates = {rate.method: rate for rate in rates}
        self.source, self.steps, self.assumes = source, steps, assumes

    def __getitem__(self, method: str) -> Rate:
        return self._rates[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rates)

    def __len__(self) -> int:
        return len(self._rates)

    def __str__(self) -> str:
        rows = [("method", "lr", "quartiles of layers", "with")]
        for rate in self.values():
            more = ", ".join(f"{key}={value!r}" for key, value in rate.more.items())
            rows.append((rate.method, f"{rate.lr:.3g}", f"{rate.low:.3g} to {rate.high:.3g}", more))
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        cells = [[cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)] for row in rows]
        count = next(iter(self.values())).layers
        head = f"{self.source}; {count} layers, steps {self.steps[0]} to {self.steps[1]}"
        return "\n".join([head, *("  ".join(row).rstrip() for row in cells), *(f"- {line}" for line in self.assumes)])


def equivalent_rates(run: Run | Monitor, skip: float = 0.1) -> Rates:
    """The rates at which layer-wise methods move layers as a watched optimizer does; see the module's equations.

    Layers are the matrices (two dimensions or more) that are trained, but for those that were zero.

    Args:
        run: of AdamW, Adam or SGD (ours or torch's), a few dozen steps of it, with its schedule; or its monitor.
        skip: share of the records at the beginning that do not count, in [0, 1).

    Raises:
        NoRates: too few records, a rate of 0, or an optimizer that is neither of them.

    Example:
        >>> import torch, layerpace as lp
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
        >>> adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
        >>> with lp.Monitor(model, adamw, every=1, out=None) as monitor:
        ...     for _ in range(20):
        ...         adamw.zero_grad()
        ...         model(torch.randn(32, 8)).square().mean().backward()
        ...         adamw.step()
        >>> rates = monitor.equivalent_rates()
        >>> optimizer = lp.LAMB(model, **rates["LAMB"].options())
    """
    data: Run = run_of(run)
    skip = check_number("skip", skip, 0, 1, open_high=True)
    history = data.history
    if len(history) < FEWEST:
        raise NoRates(f"{data.name}: {len(history)} records are too few: at least {FEWEST} are needed")
    options = _options(data)
    wide = [len(layer.shape) >= 2 and layer.trained for layer in data.layers]
    lr = history["learning_rate"].double()
    peak = torch.nan_to_num(lr, nan=0.0, posinf=0.0).amax(0)
    counts = torch.arange(len(lr), device="cpu") >= int(skip * len(lr))
    here = counts[:, None] & (lr >= WARM * peak) & (lr > 0)

    def of(values: Tensor, linear: bool = True) -> Tensor:
        """The number of each layer at the largest rate: the median over records."""
        per_unit = values.double() / lr if linear else values.double()
        good = torch.where(here & torch.isfinite(per_unit) & (values > 0), per_unit, torch.nan)
        return good.nanmedian(0).values * (peak if linear else 1.0)

    n = torch.tensor([float(layer.entries) for layer in data.layers], dtype=torch.float64, device="cpu")
    share, share1 = of(history["relative_update_l2"]), of(history["relative_update_l1"])
    turn = of(history["rotation_angle"].double().tan())
    norm = of(history["update_norm"])
    momentum = options.get("momentum")
    more: dict[str, Any]
    if "betas" in options:
        rho, more, alike = norm / (peak * n.sqrt()), {"direction": "adam"}, "adam"
        source = f"Adam's kind, lr {float(peak.max()):.3g}"
    else:
        mu = MOMENTUM if not momentum else float(momentum)
        damped = 1.0 if not momentum else 1 - mu
        rho = norm * damped / (peak * of(history["grad_norm"], linear=False))
        if not momentum:
            rho = rho * math.sqrt((1 - mu) / (1 + mu))
        more, alike = ({"momentum": mu}, "heavy_ball") if momentum else ({}, "sgd")
        source = f"SGD, momentum {float(momentum or 0):g}, lr {float(peak.max()):.3g}"
    usable = torch.tensor(wide, device="cpu") & torch.isfinite(share) & torch.isfinite(rho) & torch.isfinite(turn)
    if not bool(usable.any()):
        raise NoRates(f"{data.name}: no matrix has moved at a rate above 0 in the records that count")
    rho = rho.clamp(SMALLEST_RHO, 1.0)
    k = (2 / math.pi * n.log()).clamp(min=1.0)
    decay = float(options.get("weight_decay") or 0.0)
    inner = {"weight_decay": decay}
    found: dict[str, tuple[Tensor, Mapping[str, Any]]] = {
        "LAMB": (share, inner),
        "LARS": (share * (1 - MOMENTUM) / rho, {**inner, "momentum": MOMENTUM, "trust_coefficient": 1.0}),
        "PercentDelta": (share1 * k / rho, {}),
        "Layca": (turn, more),
        "Layerwise": (share1, {"direction": alike, "rule": "relative_l1"}),
    }
    rates = []
    for method, (values, own) in found.items():
        low, middle, high = [float(torch.quantile(values[usable], at)) for at in QUARTILES]
        rates.append(Rate(method, middle, low, high, int(usable.sum()), own))
    at = [step for step, row in zip(history.steps, here.any(1).tolist(), strict=True) if row]
    assumes = ["the source's schedule and warm-up, batch size and number of steps"]
    if "betas" not in options and not momentum:
        assumes.append("single gradients of one direction no more than chance, for LARS and PercentDelta")
    apart = float(share[usable].max() / share[usable].min())
    if apart > APART:
        assumes.append(
            f"layers that move alike, and these differ by a factor of {apart:.0f}: their median may suit none of them; "
            "try the upper quartile, too"
        )
    left_out = sum(wide) - int(usable.sum())
    if left_out:
        assumes.append(f"nothing of {left_out} matrices that were zero, or did not move")
    return Rates(rates, source, (at[0], at[-1]), assumes)


def _options(run: Run) -> dict[str, Any]:
    """The options of the first group of the first optimizer.

    Raises:
        NoRates: it is neither Adam's kind nor SGD, or not known.
    """
    optimizers = run.settings.get("optimizers") or []
    first: Mapping[str, Any] = optimizers[0] if optimizers else {}
    rule = (first.get("rule") or {}).get("name", "Identity")
    groups = first.get("groups") or [{}]
    options = dict(groups[0])
    if rule != "Identity" or not ({"betas", "momentum"} & options.keys()):
        called = first.get("class", "an unknown optimizer")
        raise NoRates(
            f"{run.name}: rates carry over from AdamW, Adam and SGD, and this is a run of {called}"
            + ("" if rule == "Identity" else f" with the rule {rule}")
        )
    direction = (first.get("direction") or {}).get("name")
    if direction == "SGD":
        options.pop("betas", None)
    return options
