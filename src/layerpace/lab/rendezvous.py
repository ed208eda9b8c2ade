"""Where the processes of torchrun meet, also after it has started them again.

torchrun keeps one store over all attempts, and what a process of an earlier attempt wrote there is still to be read:
gloo then connects to an address where nobody is left. So the processes that live agree on a name first, and use the
store under that name:

    everybody       hello/RANK = own word, which nobody had before
    rank 0          words = those of all ranks, again and again
    everybody       finds its own word among them: NAME, made of them all; here/NAME/RANK = 1
    rank 0          all are here: go/NAME = 1

A word that a dead process left leads to a name that nobody answers to, until its successor has said its own.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import TYPE_CHECKING

from .errors import LabError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PLACE = "layerpace"
PAUSE = 0.02  # seconds between looks


def meet(store: Store, rank: int, size: int, seconds: float = 600.0) -> Store:
    """The part of a store that is for the processes that call this now.

    Args:
        store: that all processes see; it may hold what others left there.
        rank: of this process.
        size: number of processes.
        seconds: how long to wait for the others.

    Raises:
        LabError: they did not come.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    word = uuid.uuid4().hex
    deadline = time.monotonic() + seconds
    meeting = PrefixStore(PLACE, store)
    meeting.set(f"hello/{rank}", word)
    while time.monotonic() < deadline:
        if rank == 0 and meeting.check([f"hello/{other}" for other in range(size)]):
            meeting.set("words", " ".join(meeting.get(f"hello/{other}").decode() for other in range(size)))
        words = meeting.get("words").decode() if meeting.check(["words"]) else ""
        if word in words.split():
            name = hashlib.sha256(words.encode()).hexdigest()[:16]
            meeting.set(f"here/{name}/{rank}", "1")
            if rank == 0 and meeting.check([f"here/{name}/{other}" for other in range(size)]):
                meeting.set(f"go/{name}", "1")
            if meeting.check([f"go/{name}"]):
                return PrefixStore(f"{PLACE}/{name}", store)
        time.sleep(PAUSE)
    raise LabError(f"process {rank} of {size} did not find the others within {seconds:g} s")
