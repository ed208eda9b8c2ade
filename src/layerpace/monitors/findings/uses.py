"""What a training uses already: no finding advises that again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from layerpace.monitors.quantities import RATE

if TYPE_CHECKING:
    from layerpace.monitors.findings.view import View

CLIPS = ("max_grad_norm", "gradient_clip_val")  # what optimizers, transformers and Lightning call it
HALF = ("bfloat16", "float16")
WARMED = 1.5  # a rate that has risen by so much since the first record was warmed up


class Uses:
    """What the settings and the records of a run say.

    Attributes:
        optimizers: as the settings describe them.
        rules: names of the layer-wise rules.
        clips: gradients are clipped.
        skips: steps whose gradients are not finite are left out.
        decays: there is weight decay.
        master: half-precision weights have a master copy.
        dtype: that of the weights, in words.
        larc: a rule is LARC's, whose ratios after the clip are in other units than before.
        warms: the learning rate is warmed up.
    """

    def __init__(self, view: View) -> None:
        settings = view.run.settings if isinstance(view.run.settings, Mapping) else {}
        self.optimizers = optimizers = mappings(settings.get("optimizers"))
        groups = [group for one in optimizers for group in mappings(one.get("groups"))]
        rules = [rule.get("name") for one in optimizers if isinstance(rule := one.get("rule"), Mapping)]
        self.rules = {str(rule) for rule in rules} - {"Identity"}
        self.clips = any(bool(one.get(name)) for one in (settings, *optimizers) for name in CLIPS)
        self.skips = any(one.get("nonfinite") == "skip" for one in optimizers)
        self.decays = any(bool(group.get("weight_decay")) for group in groups)
        # Optimizers of layerpace, which have a rule, keep one unless told otherwise.
        kept = [one.get("low_precision", "master") for one in optimizers if one.get("rule") is not None]
        self.master = "master" in kept
        self.dtype = str(settings.get("dtype"))
        self.larc = any("LARC" in str(one.get("rule")) for one in optimizers)
        rates = view.finite(RATE)
        rising = rates.nan_to_num(0.0).amax(0) > WARMED * view.first(RATE) if len(rates) else None
        self.warms = rising is not None and bool(rising.any())

    @property
    def half(self) -> bool:
        """Whether the weights are in half precision."""
        return self.dtype in HALF

    @property
    def slower(self) -> str:
        """How to move less."""
        return "lower the learning rate" if self.warms else "lower the learning rate or warm it up"


def mappings(value: Any) -> Iterable[Mapping[str, Any]]:
    """Those among the items of a list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, (list, tuple)) else []
