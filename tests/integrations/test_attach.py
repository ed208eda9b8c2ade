"""What the integrations share, without their libraries."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

import layerpace as lp
from layerpace.engine.common.extras import how_to_install
from layerpace.integrations.attach import check_layers, is_spread
from layerpace.integrations.lightning import LayerMonitor
from layerpace.integrations.transformers import LayerMonitorCallback

CLASSES = {"lightning": LayerMonitor, "transformers": LayerMonitorCallback}


def test_importing_the_integrations_imports_no_library() -> None:
    source = Path(lp.__file__).parents[1]
    program = (
        f"import sys; sys.path.insert(0, {str(source)!r}); import layerpace.integrations; "
        "print([n for n in ('lightning', 'pytorch_lightning', 'transformers', 'accelerate') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("extra", CLASSES)
def test_a_missing_library_is_named_with_how_to_install_it(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as caught:
        CLASSES[extra]()
    assert str(caught.value) == f"{CLASSES[extra].__name__} needs {extra}: {how_to_install(extra)}"


@pytest.mark.parametrize("extra", CLASSES)
def test_bad_options_are_told_at_once(extra: str) -> None:
    pytest.importorskip("lightning.pytorch" if extra == "lightning" else "transformers")
    with pytest.raises(TypeError, match=r"unknown option 'evrey'.*rotation_every"):
        CLASSES[extra](evrey=3)
    with pytest.raises(ValueError, match=r"every must be in \[1, inf\), got 0"):
        CLASSES[extra](every=0)
    with pytest.raises(TypeError, match=r"every must be a whole number, got 2\.5"):
        CLASSES[extra](every=2.5)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one process."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP is switching")
def test_flat_parameters_are_refused(group: None) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_layers("It", model)
    check_layers("It", fully_shard(copy.deepcopy(model), mesh=init_device_mesh("cpu", (1,))))
    model[1] = FullyShardedDataParallel(model[1], device_id=torch.device("cpu"), use_orig_params=True)
    with pytest.raises(NotImplementedError, match=r"It cannot watch .* \(FSDP1\).*fully_shard \(FSDP2\)"):
        check_layers("It", model)


def test_one_dtensor_takes_all_processes(group: None) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert not is_spread(model) and not is_spread(nn.parallel.DistributedDataParallel(model))
    mesh = init_device_mesh("cpu", (1,))
    model[1].weight = nn.Parameter(distribute_tensor(model[1].weight.detach(), mesh, [Replicate()]))
    assert is_spread(model)
