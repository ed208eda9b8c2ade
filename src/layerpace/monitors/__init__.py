"""Instruments: recording how fast every layer trains, and looking at it.

`Monitor` records; `diagnose` says what seems wrong; `plots` and `write_report` show it; `load` opens a run's folder.
"""

from layerpace.monitors import plots, sinks
from layerpace.monitors.diagnose import Finding, Thresholds, diagnose
from layerpace.monitors.equivalent import NoRates, Rate, Rates, equivalent_rates
from layerpace.monitors.folder import load
from layerpace.monitors.history import History
from layerpace.monitors.monitor import Monitor
from layerpace.monitors.report import write_report
from layerpace.monitors.run import LayerInfo, Run, Series

__all__ = [
    "Finding",
    "History",
    "LayerInfo",
    "Monitor",
    "NoRates",
    "Rate",
    "Rates",
    "Run",
    "Series",
    "Thresholds",
    "diagnose",
    "equivalent_rates",
    "load",
    "plots",
    "sinks",
    "write_report",
]
