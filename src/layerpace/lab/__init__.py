"""The lab: train one model with several optimizers on real data, and see which trains best and how evenly.

    layerpace compare, layerpace train   the commands; under torchrun on several processes
    lab.single.resolve, lab.single.run   one training, from its config to its result
    lab.Task, lab.Dataset                what a task of your own is made of
    lab.compare.compare                  the same from Python, with a Reporter of your own; see lab.command

Needs the extra `lab` (`pip install 'layerpace[lab]'`); `import layerpace` does not import it.
"""

from .data import Dataset
from .errors import LabError, UsageError
from .tasks import Task

__all__ = ["Dataset", "LabError", "Task", "UsageError"]
