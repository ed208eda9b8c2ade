"""Ends the helpers of a Ray that was started here once its driver is gone, however it went.

Most of Ray ends at once when its driver is killed. Two agents of its node stay for a minute or more: they try to say to
the dead cluster that it is dead. This file is also the program that waits for the driver's end and ends them.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path


class Guard:
    """Watches over the processes that are beneath this one now; `release` when they have been ended in good order.

    Make it right after Ray has started: what Ray starts later ends with what is there by then.
    """

    def __init__(self) -> None:
        psutil = importlib.import_module("psutil")  # Ray brings it
        beneath = [(child.pid, child.create_time()) for child in psutil.Process().children(recursive=True)]
        place = str(Path(str(psutil.__file__)).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, place, json.dumps(beneath)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the driver
        )

    def release(self) -> None:
        """The processes have ended, or will."""
        if self.process.poll() is None:
            self.process.communicate(b"released", timeout=10)


def main(place: str, beneath: str) -> None:
    """Wait for the end of stdin; unless it says "released", end the processes (id, time of start)."""
    if sys.stdin.buffer.read():
        return
    sys.path.append(place)
    psutil = importlib.import_module("psutil")
    for number, started in json.loads(beneath):
        try:
            process = psutil.Process(number)
            if process.create_time() == started:  # and no other one that has got its number since
                process.kill()
        except psutil.Error:
            continue


if __name__ == "__main__":
    main(*sys.argv[1:])
