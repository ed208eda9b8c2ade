"""One line to watch a training that another library runs.

    Trainer(callbacks=[layerpace.integrations.lightning.LayerMonitor()])
    Trainer(callbacks=[layerpace.integrations.transformers.LayerMonitorCallback()])

The libraries are imported when a callback is made, not before.
"""

from layerpace.integrations import lightning, transformers

__all__ = ["lightning", "transformers"]
