"""How long a report takes to be written and shown, and its size: python -m benchmarks.report [--cpu-slowdown 4]

50 layers x 1000 records, and more. "shown" is from the start of the navigation until every chart is drawn, in headless
Chromium, the median of five loads; --cpu-slowdown makes its CPU slower, as that of a phone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from tests.monitors.browser import chromium, missing
from tests.monitors.made import made_run

from layerpace.monitors.report import write_report

CASES = ((5, 300, 1), (50, 1000, 1), (200, 1000, 1), (50, 1000, 5))  # layers, records, runs
LOADS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cpu-slowdown", type=float, default=1.0)
    slower = parser.parse_args().cpu_slowdown
    if missing():
        raise SystemExit(missing())
    torch.set_num_threads(1)
    print("layers records runs charts   MB  write s  shown ms  phone ms")
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        for layers, records, count in CASES:
            runs = [made_run(layers, records, name=f"run {k}") for k in range(count)]
            begin = time.perf_counter()
            path = write_report(runs, Path(folder) / "report.html")
            writing = time.perf_counter() - begin
            shown = []
            for options in (
                {"viewport": {"width": 1366, "height": 900}},
                {
                    "viewport": {"width": 360, "height": 740},
                    "device_scale_factor": 3,
                    "is_mobile": True,
                    "has_touch": True,
                },
            ):
                times = []
                for _ in range(LOADS):
                    page = browser.new_page(**options)
                    if slower != 1:
                        session = page.context.new_cdp_session(page)
                        session.send("Emulation.setCPUThrottlingRate", {"rate": slower})
                    page.goto(path.as_uri())
                    page.wait_for_selector("html[data-drawn]", state="attached")
                    times.append(float(page.get_attribute("html", "data-drawn")))
                    charts = page.locator(".chart").count()
                    page.close()
                shown.append(statistics.median(times))
            size = path.stat().st_size / 1e6
            row = f"{layers:6} {records:7} {count:4} {charts:6} {size:4.1f} {writing:8.2f}"
            print(f"{row} {shown[0]:9.0f} {shown[1]:9.0f}", flush=True)


if __name__ == "__main__":
    main()
