"""Several optimizers of one model: one record a step, and each judged by its own steps."""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path

import torch
from tests.monitors.training import adam, loss_of, network
from torch import nn

import layerpace as lp
from layerpace.monitors import diagnose, folder
from layerpace.monitors.report.page import make_page


def adversarial(path: Path | None, steps: int = 60, critics: int = 5, every: int = 1) -> lp.Monitor:
    """A generator that steps after every fifth step of its critic."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"generator": network(1), "critic": network(2)})
    generator, critic = adam(model["generator"]), adam(model["critic"])
    monitor = lp.Monitor(model, [critic, generator], every=every, out=path)
    for step in range(steps):
        for name, optimizer in (("critic", critic), ("generator", generator)):
            if name == "critic" or step % critics == critics - 1:
                model.zero_grad()
                loss_of(model[name], step).backward()
                optimizer.step()
    return monitor


def test_optimizers_at_paces_of_their_own_are_judged_by_their_own_steps(tmp_path: Path) -> None:
    monitor = adversarial(tmp_path / "run")
    for run in (monitor.run, *folder.load(tmp_path / "run")):
        groups = run.history.together()
        assert [sorted({name.split(".")[0] for name in layers}) for _, layers in groups] == [["critic"], ["generator"]]
        found = [finding for finding in diagnose(run) if finding.kind in ("no_gradient", "no_update", "untrained")]
        assert found == []


def test_a_layer_that_stops_is_found_among_its_optimizers_steps(tmp_path: Path) -> None:
    """What one optimizer does between is no chance for the layers of the other."""
    model = nn.ModuleDict({"slow": network(1), "fast": network(2)})
    slow, fast = adam(model["slow"]), adam(model["fast"])
    monitor = lp.Monitor(model, [fast, slow], every=1, out=tmp_path / "run")
    for step in range(60):
        model.zero_grad()
        loss_of(model["fast"], step).backward()
        fast.step()
        if step % 3 == 2:
            loss_of(model["slow"], step).backward()
            if step > 30:
                model["slow"][2].weight.grad = None
            slow.step()
    monitor.close()
    for run in (monitor.run, *folder.load(tmp_path / "run")):
        [finding] = [finding for finding in diagnose(run) if finding.kind == "no_gradient"]
        assert finding.layers == ("slow.2.weight",) and finding.steps == (10, 20)
        assert "in 20 records" not in finding.evidence and "the last record is of step 20" in finding.evidence


def test_optimizers_that_step_together_are_compared_with_each_other() -> None:
    monitor = adversarial(None, critics=1)
    [(sources, layers)] = monitor.history.together()
    assert sources == {0, 1} and len(layers) == 8


def test_values_that_are_not_finite_end_the_records_of_all_optimizers_at_that_time() -> None:
    model = nn.ModuleDict({"slow": network(1), "fast": network(2)})
    slow, fast = (torch.optim.SGD(model[name].parameters(), lr=0.1) for name in ("slow", "fast"))
    monitor = lp.Monitor(model, [fast, slow], every=1, out=None)
    for step in range(40):
        model.zero_grad()
        loss_of(model["fast"], step).backward()
        fast.step()
        if step % 4 == 3:
            loss_of(model["slow"], step).backward()
            if step == 27:
                model["slow"][0].weight.grad[:] = torch.nan
            slow.step()
    [finding] = [finding for finding in monitor.diagnose() if finding.severity == "error"]
    assert finding.kind == "nonfinite" and finding.layers == ("slow.0.weight",) and finding.steps == (7, 10)


def test_records_of_a_step_are_one_in_memory_in_the_folder_and_in_the_report(tmp_path: Path) -> None:
    monitor = adversarial(tmp_path / "run", steps=150, critics=2)
    monitor.close()
    [run] = folder.load(tmp_path / "run")
    for history in (monitor.history, run.history):
        assert history.steps == list(range(1, 151)) and history.times == sorted(history.times)
        norms = history["grad_norm"]
        assert norms.shape == (150, 8)
        assert norms[:, 4:].isfinite().all() and norms[:75, :4].isfinite().all() and norms[75:, :4].isnan().all()
    torch.testing.assert_close(
        run.history["grad_norm"], monitor.history["grad_norm"], rtol=1e-6, atol=0, equal_nan=True
    )
    [data] = re.findall(r"<script[^>]*application/json[^>]*>(.*?)</script>", make_page([run]), re.DOTALL)
    packed = json.loads(data)["runs"][0]["quantities"]["relative_update_l1"]
    raw = base64.b64decode(packed["steps"])
    assert list(struct.unpack(f"<{len(raw) // 8}d", raw)) == list(range(1, 151))
    counts = base64.b64decode(packed["counts"])
    assert list(struct.unpack(f"<{len(counts) // 4}i", counts)) == [75] * 4 + [150] * 4  # no nan between: no gap
