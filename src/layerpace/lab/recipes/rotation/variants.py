"""The methods that the figures of the layer rotation paper compare, and where their learning rates come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...sweep.rates import Settings as Search
from ..recipe import Request, Scale
from .trainings import PAPER, RMSPROP, Setting, power, request

LIMITS = (0, 6, 6)  # how often a search may go on beyond an end, at each scale
SURE = 5  # seeds at cpu scale of those that are said to be on par: three leave an interval of several points


@dataclass(frozen=True)
class Variant:
    """A method, and its learning rate: the paper's, or searched for as in appendix B.2.

    Attributes:
        method: of a setting, as `layerpace train` takes it.
        paper: the paper's learning rate for a setting; None: it is searched for at every scale.
        tried: exponents of 3 that the search starts with where the learning rate is not the paper's.
        fixed: exponent of 3: this rate and no search, where the learning rate is not the paper's.
        changed: options that the method has of its own for a setting.
        seeds: at cpu scale.
        only: key of the one task of the paper that it is trained on at paper scale; None: all.
    """

    key: str
    title: str
    method: Callable[[Setting], str]
    paper: Callable[[Setting], float] | None = None
    tried: tuple[int, ...] = (-4, -3, -2)
    fixed: float | None = None
    changed: Callable[[Setting], Mapping[str, Any]] = lambda setting: {}
    seeds: int = 3
    only: str | None = None

    def on(self, setting: Setting) -> bool:
        """Whether it is trained there."""
        return self.only in (None, setting.key) or setting not in PAPER

    def request(self, scale: Scale, setting: Setting, lr: float, seed: int) -> Request:
        return request(scale, setting, self.method(setting), lr, seed, **self.changed(setting))

    def search(self, scale: Scale, setting: Setting) -> Search:
        """Which rates to try; one alone where the rate is known."""
        if scale.name == "paper" and self.paper is not None:
            return Search(rates=(self.paper(setting),), limit=0, refine=False)
        if self.fixed is not None:
            return Search(rates=(power(self.fixed),), limit=0, refine=False)
        tried = scale.pick(self.tried[1:2], self.tried, self.tried)
        return Search(rates=tuple(map(power, tried)), limit=scale.pick(*LIMITS), refine=False)


def layca(alpha: float) -> Variant:
    """Layca, all layers at one rate or some prioritised."""
    if alpha == 0:
        return LAYCA
    spec = f"layca:alpha={alpha:g}"
    return Variant(f"alpha={alpha:g}", f"Layca, α = {alpha:g}", lambda setting: spec)


def slower(exponent: float) -> Variant:
    """Layca at another rate."""
    return Variant(f"rho=3^{exponent:g}", f"Layca, ρ(0) = 3^{exponent:g}", lambda setting: "layca", fixed=exponent)


def with_l2(setting: Setting) -> dict[str, Any]:
    """The schedule and length that the authors' code has with L2."""
    changed: dict[str, Any] = {} if setting.schedule_l2 is None else {"schedule": setting.schedule_l2}
    if setting.epochs_l2 is not None:
        changed["steps"] = setting.epochs_l2 * setting.epoch()
    return changed


def adaptive_changed(setting: Setting) -> dict[str, Any]:
    return with_l2(setting) if "wd=" in setting.adaptive[0] else {}


LAYCA = Variant("layca", "Layca, best ρ(0)", lambda setting: "layca", lambda setting: power(-3), seeds=SURE)
SGD = Variant("sgd", "SGD", lambda setting: "sgd:momentum=0", lambda setting: setting.sgd, (-2, -1, 0))
SGD_L2 = Variant(
    "sgd-l2",
    "SGD + L2",
    lambda setting: f"sgd:momentum=0,wd={2 * setting.l2:g}",
    lambda setting: setting.sgd_l2,
    (-2, -1, 0),
    changed=with_l2,
    seeds=SURE,
)
ADAPTIVE = Variant(
    "adaptive",
    "adaptive",
    lambda setting: setting.adaptive[0],
    lambda setting: setting.adaptive[1],
    (-7, -6, -5),
    changed=adaptive_changed,
    seeds=SURE,
)
# The paper has Adam by itself on this task alone.
ADAM = Variant("adam", "Adam", lambda setting: "adam", lambda setting: power(-5), (-6, -5, -4), only="C100-resnet")
LIMITED = Variant("lars", "LARS, norm limited", lambda setting: "sgd+limited_norm", fixed=-3, seeds=SURE)
# Figure 6: an adaptive method and its equivalent, both under Layca.
LAYCA_SGD = Variant("layca-sgd", "Layca on SGD", lambda setting: "layca", fixed=-3, seeds=SURE)
LAYCA_RMSPROP = Variant(
    "layca-rmsprop", "Layca on RMSProp", lambda setting: f"rmsprop+rotation:{RMSPROP}", fixed=-3, seeds=SURE
)
LAYCA_ADAGRAD = Variant(
    "layca-adagrad", "Layca on AdaGrad", lambda setting: "layca:direction=adagrad", fixed=-3, seeds=SURE
)
# With momentum the steps of a few epochs add up: the paper's rate, 3^-5 for hundreds of epochs, would be too low here.
LAYCA_AMOM = Variant(
    "layca-amom",
    "Layca on SGD_AMom",
    lambda setting: "layca:direction=ema_momentum",
    lambda setting: power(-5),
    fixed=-4,
    seeds=SURE,
)
LAYCA_ADAM = Variant(
    "layca-adam",
    "Layca on Adam",
    lambda setting: "layca:direction=adam",
    lambda setting: power(-5),
    fixed=-4,
    seeds=SURE,
)
