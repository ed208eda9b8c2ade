"""Where the rules of a diagnosis draw their lines."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Thresholds:
    """Lines that the rules draw; docs/diagnose.md gives the source of each.

    Logarithms are to base 10; a window is the part of a layer's records, at its start or end, that stands for it.

    Attributes:
        min_records: records of a layer below which nothing is said of it, but for values that are not finite.
        window: share of the records in a window, which has at least ``min_records / 2`` of them.
        persistent: share of the records that must show a thing.
        died: log10 by which a layer's gradient fell more than those of the others.
        out_of_step_note, out_of_step: log10 distance of the relative update from the median of the layers.
        out_of_step_mads: the same distance in robust standard deviations (1.4826 MAD).
        min_layers: layers of one kind below which none is out of step.
        split_note, split: log10 of the gap in relative updates that parts the layers into two groups.
        update_high: relative update in a step that no layer bears for long.
        vector_update_high: the same for biases and norm scales, which may pass through zero.
        jump: relative update that replaces a matrix in a single step.
        update_low: relative update below which nothing trains.
        most: share of the layers that stands for all of them.
        coasting: update at a rate of 0 to the usual one.
        growth: factor of a layer's norm between the first record and the last that makes it a runaway.
        outgrown: the same factor, to the median of the layers of a kind.
        doubling: growth of the norm in each of the last two quarters of the records that makes it exponential.
        grown_gain, grown_rms: gain (RMS*sqrt(fan-in)) of a matrix, RMS of a vector, below which growth is harmless.
        loss_growth: factor between the first and the last loss that is a divergence.
        depth: log10 of the gradients of the last layers to those of the first.
        depth_order: rank correlation of gradient and depth that makes it a trend.
        depth_layers: matrices that a trend over depth needs.
        gain_low, gain_high: the gains of initial weights that are usual.
        gain_distance: log10 distance of the initial gain from the median of the matrices.
        clip_always: share of the records in which a clip "always" binds.
        clip_differs: relative difference of the two trust ratios that shows a clip.
        held: relative distance of a layer's RMS from min_rms below which it is held there.
        stalled_rate: rotation rate over the last quarter to the fastest quarter before it.
        stalled_below: cosine distance that a stalled layer has not reached.
        stalled_readings, stalled_steps: readings of the cosine distance that are needed, and steps from first to last.
    """

    min_records: int = 6
    window: float = 0.2
    persistent: float = 0.8
    died: float = 3.0
    out_of_step_note: float = 1.0
    out_of_step: float = 1.3
    out_of_step_mads: float = 4.0
    min_layers: int = 3
    split_note: float = 1.0
    split: float = 1.3
    update_high: float = 0.1
    vector_update_high: float = 1.0
    jump: float = 1.0
    update_low: float = 1e-6
    most: float = 0.8
    coasting: float = 0.1
    growth: float = 100.0
    outgrown: float = 10.0
    doubling: float = 2.0
    grown_gain: float = 10.0
    grown_rms: float = 100.0
    loss_growth: float = 3.0
    depth: float = 3.0
    depth_order: float = 0.8
    depth_layers: int = 4
    gain_low: float = 0.03
    gain_high: float = 30.0
    gain_distance: float = 1.5
    clip_always: float = 0.98
    clip_differs: float = 1e-4
    held: float = 0.01
    stalled_rate: float = 0.1
    stalled_below: float = 0.7
    stalled_readings: int = 12
    stalled_steps: int = 500

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not value > 0:
                raise ValueError(f"{entry.name} must be above 0, got {value!r}")
