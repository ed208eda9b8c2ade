"""`diagnose`: what a recorded training shows, in plain language.

    for finding in lp.monitors.diagnose(monitor.run):
        print(finding)

The rules, where they draw their lines and where those come from: docs/diagnose.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerpace.monitors.findings.clipping import clipping
from layerpace.monitors.findings.coasting import coasting
from layerpace.monitors.findings.depth import depth
from layerpace.monitors.findings.finding import SEVERITIES, Finding, Severity
from layerpace.monitors.findings.held import held
from layerpace.monitors.findings.nonfinite import nonfinite, ruined_at
from layerpace.monitors.findings.rotation import rotation
from layerpace.monitors.findings.rounding import rounding
from layerpace.monitors.findings.runaway import runaway
from layerpace.monitors.findings.speed import speed
from layerpace.monitors.findings.stopped import stopped
from layerpace.monitors.findings.thresholds import Thresholds
from layerpace.monitors.findings.view import View
from layerpace.monitors.run import Run, run_of

if TYPE_CHECKING:
    from layerpace.monitors.monitor import Monitor

__all__ = ["SEVERITIES", "Finding", "Severity", "Thresholds", "diagnose"]

# In the order in which findings of one severity are told. A layer that one of them tells of has often one cause.
RULES = (runaway, stopped, coasting, held, speed, depth, clipping, rotation, rounding)
# Layers of these are not also told to be out of step.
STILL = ("no_gradient", "no_update", "zero_rate")


def diagnose(run: Run | Monitor, thresholds: Thresholds | None = None) -> list[Finding]:
    """What seems wrong with a training, worst first.

    A rule that has too few records to judge says nothing. From the first record that is not finite on, nothing else is
    judged.

    Args:
        run: finished or not; or the monitor of one.
        thresholds: where the rules draw their lines; None: as measured.

    Returns:
        findings; none where all is well.
    """
    data: Run = run_of(run)
    lines = thresholds or Thresholds()
    if not len(data.history):
        return []
    # Optimizers that step at paces of their own are judged by their own steps; those that step together, together.
    groups = data.history.together()
    views = [View(data, lines, group, main=place == 0) for place, group in enumerate(groups)]
    ends = [(view.times[at], place, at) for place, view in enumerate(views) if (at := ruined_at(view)) is not None]
    if not ends:
        found = [finding for view in views for finding in nonfinite(view)]
    else:
        moment, first, at = min(ends)
        found, step = nonfinite(views[first]), views[first].steps[at]
        views = [
            View(data, lines, group, place == 0, *((step,) if place == first else (None, moment)))
            for place, group in enumerate(groups)
        ]
    found += [finding for view in views if view.steps for rule in RULES for finding in rule(view)]
    return sorted(_causes(found), key=lambda finding: SEVERITIES.index(finding.severity))


def _causes(found: list[Finding]) -> list[Finding]:
    """Without those that follow from others."""
    kinds = {finding.kind for finding in found}
    # What is lost to rounding is not also too slow; what is too slow to see is not held still.
    if "lost_to_rounding" in kinds:
        found = [finding for finding in found if finding.kind not in ("learning_rate_low", "no_update")]
    elif "learning_rate_low" in kinds:
        found = [finding for finding in found if finding.kind != "no_update"]
    still = {name for finding in found if finding.kind in STILL for name in finding.layers}
    return [f for f in found if f.kind != "out_of_step" or not set(f.layers) <= still]
