"""One HTML file that shows recorded runs: no network, no server, charts of its own."""

from .page import write_report

__all__ = ["write_report"]
