"""What the recipes of the PercentDelta paper share: the MNIST task, its sizes, and the choice of a setting."""

from __future__ import annotations

from collections.abc import Sequence

from .. import tasks
from ..recipe import Request, Scale
from ..records import Record

BATCH = 500
TUNING_SEED = 100  # of runs that settings are chosen by; no claim is tested on it
CHANCE = 0.1  # accuracy that a diverged run counts with
COLOURS = {"PercentDelta": "#D55E00", "SGD": "#0072B2", "Adam": "#009E73", "LARS": "#CC79A7", "AdaGrad": "#E69F00"}


def mnist(scale: Scale) -> Request:
    """The paper's task: its network on MNIST, batch 500. At smoke scale scikit-learn's digits and a smaller network."""
    smoke = scale.name == "smoke"
    return {
        "task": tasks.reference("images", data="digits-as-mnist", model="digits-cnn", train=120, test=40)
        if smoke
        else tasks.reference("images", data="mnist", model="percentdelta-cnn"),
        "batch_size": 20 if smoke else BATCH,
        "device": scale.device,
        "threads": scale.pick(1, 1, None),
    }


def score(record: Record) -> float:
    """Validation accuracy, and less than any where the run diverged: a setting is chosen by it."""
    found = record.result.get("validation_score")
    return -1.0 if record.diverged or found is None else float(found)


def test_accuracy(record: Record) -> float:
    """Of the whole test set at the end of the run; chance where it diverged."""
    found = record.result.get("test_score")
    return CHANCE if record.diverged or found is None else float(found)


def best(scores: Sequence[float]) -> int:
    """Place of the highest score, the first of equals."""
    return max(range(len(scores)), key=lambda place: scores[place])


def further(rate: float, up: bool) -> float:
    """The next of ..., 0.1, 0.3, 1, 3, ..."""
    return float(f"{rate * 3.2 if up else rate / 2.9:.1g}")


def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]


def significant(values: Sequence[float], digits: int = 4) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]
