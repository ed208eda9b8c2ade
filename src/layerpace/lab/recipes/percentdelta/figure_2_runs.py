"""PercentDelta, figure 2: which settings are swept, and the runs of each.

A row of the figure is a method with a range of settings, which goes on while the best is at an end of it, by some
settings at most. Each setting has a tuning run, which holds a tenth of the training set out, and an early run, whose
accuracy is taken every few steps. A row's best by validation accuracy then has early and whole runs on seeds of their
own, with the whole training set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..recipe import Request, Scale
from ..records import Records
from .common import TUNING_SEED, best, further, mnist, score

Kind = Literal["tuning", "early", "whole"]


@dataclass(frozen=True)
class Size:
    """How long and how many the runs are.

    Attributes:
        tuning, early, whole: steps of the three kinds of run.
        marks: steps of the early runs at which methods are compared.
        eval_every: steps between evaluations, by kind.
        eval_size: test examples of an evaluation, by kind.
        seeds, early_seeds: of a row's best.
        settings: of a row, at first.
        extensions: settings that a row may get while its best is at an end.
    """

    tuning: int
    early: int
    whole: int
    marks: tuple[int, ...]
    eval_every: dict[str, int]
    eval_size: dict[str, int]
    seeds: int
    early_seeds: int
    settings: int
    extensions: int


EVERY = {"tuning": 20, "early": 5, "whole": 50}
EXAMPLES = {"tuning": 500, "early": 1000, "whole": 2000}
MARKS = (30, 50, 100, 200)
SMOKE = Size(5, 4, 6, (2, 4), {"tuning": 5, "early": 2, "whole": 3}, dict.fromkeys(EVERY, 40), 2, 1, 2, 0)
CPU = Size(1000, 200, 5000, MARKS, EVERY, EXAMPLES, seeds=3, early_seeds=5, settings=4, extensions=2)
PAPER = Size(5000, 200, 5000, MARKS, dict.fromkeys(EVERY, 5), dict.fromkeys(EVERY, 10_000), 5, 5, 4, 2)


def size(scale: Scale) -> Size:
    return scale.pick(SMOKE, CPU, PAPER)


@dataclass(frozen=True)
class Setting:
    """One line of a panel.

    Attributes:
        method: as the lab has it.
        slope: m of equation 10, where it is a number of its own; None: there is no decay, or `share` has it.
        share: m times the steps of the whole run: what a shorter tuning run keeps, so that it decays as far as the
            whole one does.
    """

    method: str
    lr: float
    slope: float | None = None
    share: float | None = None

    @property
    def swept(self) -> float:
        """What differs within its row."""
        return self.lr if self.share is None else self.share

    def further(self, up: bool) -> Setting:
        """The next one beyond: shares of m a factor of two apart, rates of three."""
        if self.share is not None:
            return replace(self, share=self.share * 2 if up else self.share / 2)
        return replace(self, lr=further(self.lr, up))

    def schedule(self, kind: Kind, size: Size) -> str:
        if self.share is not None:
            return f"linear:{self.share / (size.tuning if kind == 'tuning' else size.whole):g}"
        return "constant" if self.slope is None else f"linear:{self.slope:g}"

    def label(self, whole: int) -> str:
        """`swept`, in words."""
        return f"lr {self.lr:g}" if self.share is None else f"m {self.share / whole:.2g}"


# "Use momentum" can mean more than one thing, so it is chosen by validation, too, with the first setting of the row.
# Heavy-ball momentum of 0.9 makes the share by which PercentDelta changes tensors ten times the rate: 0.3 instead of
# 0.03, and diverges.
MOMENTA = {
    "PercentDelta": {
        "averaged, 0.9": "percent-delta:momentum=0.9",
        "heavy ball, 0.5": "percent-delta:momentum=0.5,dampening=0",
        "none": "percent-delta:momentum=0",
    },
    "LARS": {
        "heavy ball, 0.9": "lars:trust_coefficient=1,momentum=0.9",  # the rate is the share of the norm
        "heavy ball, 0.5": "lars:trust_coefficient=1,momentum=0.5",
        "none": "lars:trust_coefficient=1,momentum=0",
    },
}
ETA = 0.03
SHARES = (1.0, 0.5, 2.0, 5.0)  # m = 2e-4, 1e-4, 4e-4, 1e-3 for 5000 steps
RANGES = {  # the middle first
    "PercentDelta": [Setting(MOMENTA["PercentDelta"]["averaged, 0.9"], ETA, share=share) for share in SHARES],
    "AdaGrad": [Setting("adagrad", lr) for lr in (0.01, 0.03, 0.003, 0.1)],
    "Adam": [Setting("adam", lr) for lr in (1e-3, 3e-4, 3e-3, 1e-4)],
    "LARS": [Setting(MOMENTA["LARS"]["heavy ball, 0.9"], lr, slope=0.01) for lr in (0.01, 0.003, 0.03, 0.1)],
}
ROWS = tuple(RANGES)
# Not the paper's: with m = 0.01 the rate of LARS is down to 1% after 100 steps; this is LARS with a decay that takes
# the whole run, as PercentDelta has it; heavy ball of 0.9 makes 0.003 the same share of the norm as PercentDelta's.
SLOW_LARS = Setting(MOMENTA["LARS"]["heavy ball, 0.9"], 0.003, share=SHARES[0])


def momenta(name: str) -> dict[str, Setting]:
    """The settings that the momentum of a row is chosen among; none for a method that has no choice."""
    return {label: replace(RANGES[name][0], method=method) for label, method in MOMENTA.get(name, {}).items()}


def request(scale: Scale, setting: Setting, kind: Kind, seed: int = TUNING_SEED) -> Request:
    found = size(scale)
    steps = {"tuning": found.tuning, "early": found.early, "whole": found.whole}[kind]
    return {
        **mnist(scale),
        "method": setting.method,
        "lr": setting.lr,
        "schedule": setting.schedule(kind, found),
        "seed": seed,
        "steps": steps,
        "dtype": scale.pick("fp32", "bf16", "fp32"),
        "eval_every": found.eval_every[kind],
        "eval_size": found.eval_size[kind],
        "record_every": steps,
        **({"validation": 0.1} if kind == "tuning" else {}),
    }


def tuned(scale: Scale, records: Records, settings: list[Setting]) -> int | None:
    """Place of the best by validation accuracy; None: their tuning runs are not finished."""
    requests = [request(scale, setting, "tuning") for setting in settings]
    return best([score(record) for record in records.of(requests)]) if records.have(requests) else None


def at_end(settings: list[Setting], place: int) -> bool:
    """Whether this setting is the first or the last of the range."""
    values = [setting.swept for setting in settings]
    return settings[place].swept in (min(values), max(values))


def extended(scale: Scale, records: Records, settings: list[Setting]) -> list[Setting]:
    """A row's settings in order, with those beyond its ends as far as they are known to be needed."""
    settings = sorted(settings, key=lambda setting: setting.swept)
    for _ in range(size(scale).extensions):
        place = tuned(scale, records, settings)
        if place is None or not at_end(settings, place):
            break
        settings = [*settings, settings[-1].further(True)] if place else [settings[0].further(False), *settings]
    return settings


def rows(scale: Scale, records: Records) -> dict[str, list[Setting]]:
    """The settings of each row; one is missing until its momentum is chosen."""
    found = {}
    for name, settings in RANGES.items():
        settings, choice = settings[: size(scale).settings], list(momenta(name).values())
        if choice:
            place = tuned(scale, records, choice)
            if place is None:
                continue
            settings = [replace(setting, method=choice[place].method) for setting in settings]
        found[name] = extended(scale, records, settings)
    return found


def runs(scale: Scale, records: Records) -> list[Request]:
    """All that is known to be needed by now, each once."""
    found = size(scale)
    compared = [setting for name in ROWS for setting in momenta(name).values()]
    wanted = [request(scale, setting, "tuning") for setting in (*compared, SLOW_LARS)]
    for settings in rows(scale, records).values():
        for setting in settings:
            wanted += [request(scale, setting, kind) for kind in ("tuning", "early")]
        place = tuned(scale, records, settings)
        if place is not None:
            wanted += [request(scale, settings[place], "early", seed) for seed in range(found.early_seeds)]
            wanted += [request(scale, settings[place], "whole", seed) for seed in range(found.seeds)]
    once: list[Request] = []
    for one in wanted:
        if one not in once:
            once.append(one)
    return once
