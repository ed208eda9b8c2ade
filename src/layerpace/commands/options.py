"""How the options of the commands are read."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token


def whole(kind: Any, tokens: Sequence[Token]) -> int:
    """A whole number, as it is written: 1.5 is none, where cyclopts itself would round it to 2."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:  # also of thousands of digits
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise ValueError(f"{shown!r} is not a whole number") from None


many = Parameter(consume_multiple=True, negative="")
flag = Parameter(negative="", show_default=False)

MOST_JOBS, MOST_RETRIES = 10_000, 1000
Whole = Annotated[int, Parameter(converter=whole)]
WholeOrNone = Annotated[int | None, Parameter(converter=whole)]

# the data sets that make a task: lab.tasks.DEFAULTS
DataName = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet64"]
