"""A default device that is not the model's (``torch.set_default_device``): what the package makes names its device."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.methods import assert_same, save_and_open, snapshot
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import layerpace as lp
from layerpace.engine.backends import NAMES, triton
from layerpace.engine.backends.cpu import available
from layerpace.monitors import Monitor, diagnose

# What makes a tensor out of no other, on the default device unless it is told.
FACTORIES = {
    "arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "complex", "empty", "empty_permuted",
    "empty_strided", "eye", "from_file", "full", "hamming_window", "hann_window", "kaiser_window", "linspace",
    "logspace", "normal", "ones", "polar", "rand", "randint", "randn", "randperm", "range", "scalar_tensor",
    "sparse_coo_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
OF_ITS_OWN = {"Tensor", "FloatTensor", "DoubleTensor", "LongTensor", "IntTensor", "BoolTensor"}  # as functions
PACKAGE = Path(lp.__file__).parent
BACKENDS = [name for name in NAMES if (name != "triton" or triton.interprets()) and (name != "cpu" or available())]


def nameless(tree: ast.AST) -> list[str]:
    """Calls of torch's factories that name no device."""
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
        keywords = {keyword.arg for keyword in node.keywords}
        if of_torch and ((node.func.attr in FACTORIES and "device" not in keywords) or node.func.attr in OF_ITS_OWN):
            found.append(f"{node.lineno}: torch.{node.func.attr}")
    return found


def test_every_tensor_that_is_made_names_its_device() -> None:
    assert nameless(ast.parse("torch.zeros(3)")) == ["1: torch.zeros"]
    assert nameless(ast.parse("torch.zeros(3, device=x.device), x.new_zeros(3), torch.zeros_like(x)")) == []
    files = sorted(PACKAGE.rglob("*.py"))
    found = {str(path.relative_to(PACKAGE)): nameless(ast.parse(path.read_text("utf-8"))) for path in files}
    assert files
    assert {path: calls for path, calls in found.items() if calls} == {}


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """On "meta" tensors have no memory: whatever is made there by mistake cannot be read."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(16, 6, generator=generator, device="cpu")
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_steps() -> None:
    """Of every backend and every option that makes tensors: the same weights as at home."""
    options = [
        {},
        {"segments": {"0.weight": (1, 5, 2)}, "nonfinite": "skip"},
        {"max_grad_norm": 0.1, "direction": "nadam", "state_dtype": "bf16"},
        {"direction": "adam", "rule": "rotation", "exclude": None},
    ]
    for backend in BACKENDS:
        for more in options if backend != "triton" else options[:1]:
            steps = 1 if backend == "triton" else 3  # its interpreter is slow
            ended = []
            for place in (contextlib.nullcontext, elsewhere):
                model = network()
                with place():
                    torch.manual_seed(1)
                    chosen = {"direction": "heavy_ball", "rule": "trust_ratio", "lr": 0.01, **more}
                    optimizer = lp.Layerwise(model.named_parameters(), backend=backend, **chosen)
                    train(model, optimizer, steps)
                    saved = save_and_open(optimizer.state_dict())
                    optimizer.load_state_dict(saved)
                    train(model, optimizer, steps - 1)
                ended.append([*model.parameters(), *snapshot(optimizer)])
            assert_same(ended[1], ended[0])


def test_monitors(tmp_path: Path) -> None:
    """Ours, another's and a wrapped one: records, findings, and what is read of the folder."""
    made = {
        "ours": lambda model: lp.LAMB(model.named_parameters(), lr=0.01),
        "another": lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
        "wrapped": lambda model: lp.wrap(torch.optim.SGD(model.parameters(), lr=0.01), lp.rules.TrustRatio()),
    }
    for name, make in made.items():
        seen = []
        for place in (contextlib.nullcontext, elsewhere):
            model = network()
            out = tmp_path / f"{name}-{len(seen)}"
            with place():
                optimizer = make(model)
                monitor = Monitor(model, optimizer, every=1, out=out)
                train(model, optimizer, 5)
                latest = monitor.latest()
                monitor.diagnose()
                monitor.close()
                (run,) = lp.monitors.load(out)
                seen.append((latest, run.history["relative_update_l2"], [str(finding) for finding in diagnose(run)]))
        assert seen[0][0] and "relative_update_l2" in next(iter(seen[0][0].values()))
        assert_same(seen[1], seen[0])


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_sharded_steps(alone: None) -> None:
    mesh = init_device_mesh("cpu", (1,))
    ended = []
    for place in (contextlib.nullcontext, elsewhere):
        model = network()
        for layer in model:
            for name, p in list(layer.named_parameters()):
                setattr(layer, name, nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])))
        grads = [torch.ones_like(p) for p in model.parameters()]
        with place():
            optimizer = lp.LAMB(model.named_parameters(), lr=0.01, segments={"0.weight": "rows"})
            monitor = Monitor(model, optimizer, every=1)
            for _ in range(2):
                for p, g in zip(model.parameters(), grads, strict=True):
                    p.grad = g.clone()
                optimizer.step()
            latest = monitor.latest()
        ended.append((latest, [p.to_local().detach() for p in model.parameters()]))  # type: ignore[attr-defined]
    assert ended[0][0] == ended[1][0] and ended[0][0]
    assert_same(ended[1][1], ended[0][1])
