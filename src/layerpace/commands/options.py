"""How the options of the commands are read."""

from typing import Literal

from cyclopts import Parameter

many = Parameter(consume_multiple=True, negative="")
flag = Parameter(negative="", show_default=False)

# the data sets that make a task: lab.tasks.DEFAULTS
DataName = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet64"]
