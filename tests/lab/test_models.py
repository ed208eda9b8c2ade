from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from layerpace.commands.options import DataName
from layerpace.lab.errors import UsageError
from layerpace.lab.models import (
    DEFAULT_MODEL,
    DIGITS_SCALES,
    MLP,
    MODELS,
    CifarResNet,
    DigitsCNN,
    HalfDropout,
    ResNet18,
    WideResNet,
)
from layerpace.lab.tasks import DEFAULTS

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "tiny-imagenet": (3, 64, 64),
    "imagenet64": (3, 64, 64),
}
# what makes a large network small enough to train a step of
SMALL: dict[str, dict[str, int]] = {
    "wrn-28-10": {"widen": 1},
    "torch-blog-vgg": {"width": 8},
    "resnet-18": {"width": 8},
    "c10-cnn1": {"width": 8},
    "tiny-cnn": {"width": 8},
    "mlp-deep": {"width": 64},
}
LAYER_ROTATION = ("c10-cnn1", "c10-cnn1-small", "tiny-cnn", "torch-blog-vgg", "resnet-32", "resnet-110", "wrn-28-10")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def on_meta(name: str, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> nn.Module:
    """Shapes without memory or work."""
    with torch.device("meta"):
        return MODELS[name](shape, classes)


def entries(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("data", DEFAULT_MODEL)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_every_data_set(name: str, data: str) -> None:
    outputs = on_meta(name, SHAPES[data], 7).eval()(torch.empty(2, *SHAPES[data], device="meta"))
    assert outputs.shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_weights_and_all_of_them_get_a_gradient(name: str) -> None:
    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return MODELS[name]((1, 8, 8), 10, **SMALL.get(name, {}))

    net, again, other = made(1), made(1), made(2)
    pairs = list(zip(net.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert all(not torch.equal(a, c) for a, _, c in pairs if a.ndim > 1)
    inputs = torch.rand(8, 1, 8, 8)
    outputs = net(inputs)
    assert outputs.shape == (8, 10)
    assert outputs.isfinite().all()
    nn.functional.cross_entropy(outputs, torch.arange(8)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 9 entries a pair of channels: the first convolution, each stage's first, the others; the linear layer
        ("c10-cnn1", 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 5 * (32**2 + 64**2 + 128**2 + 256**2)) + 2560),
        ("c10-cnn1-small", 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 128 + 2 * (16**2 + 32**2 + 64**2 + 128**2)) + 1280),
        ("tiny-cnn", 9 * (96 + (2 + 8 + 32 + 128) * 1024 + 1024 * (1 + 4 + 16 + 64 + 256)) + 5120),
        (
            "torch-blog-vgg",
            9 * (3 * 64 + 64**2 + 64 * 128 + 128**2 + 128 * 256 + 2 * 256**2 + 256 * 512 + 5 * 512**2) + 512**2 + 5120,
        ),
        # published: 464,154 and 1,727,962 with shortcuts without parameters, with BatchNorm's (2 a channel) and biases
        ("resnet-32", 464_154 - 2 * (11 * 16 + 10 * 32 + 10 * 64) - 10 + 16 * 32 + 32 * 64),
        ("resnet-110", 1_727_962 - 2 * (37 * 16 + 36 * 32 + 36 * 64) - 10 + 16 * 32 + 32 * 64),
        # published: 36,479,194, with BatchNorm's and biases
        ("wrn-28-10", 36_479_194 - 2 * (16 + 8 * 160 + 8 * 320 + 8 * 640) - 10),
        ("resnet-18", 11_173_962),  # published, for CIFAR-10
        ("mlp-deep", 3072 * 784 + 9 * 784**2 + 784 * 10),
        ("mlp-784", 3072 * 784 + 3 * 784 + 784 * 10 + 10),
    ],
)
def test_the_papers_networks_have_their_numbers_of_parameters(name: str, expected: int) -> None:
    assert entries(on_meta(name)) == expected


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("c10-cnn1", 25),
        ("c10-cnn1-small", 13),
        ("tiny-cnn", 11),
        ("torch-blog-vgg", 15),
        ("resnet-32", 32 + 2),  # and two projections
        ("resnet-110", 110 + 2),
        ("wrn-28-10", 26 + 3),  # the name counts the projections
        ("mlp-deep", 11),
    ],
)
def test_the_layer_rotation_networks_have_only_kernels(name: str, layers: int) -> None:
    parameters = list(on_meta(name).parameters())
    assert len(parameters) == layers
    assert min(p.ndim for p in parameters) == 2


@pytest.mark.parametrize("name", ["c10-cnn1", "tiny-cnn", "torch-blog-vgg", "resnet-32", "wrn-28-10", "mlp-deep"])
def test_parameters_stand_in_the_order_of_the_forward_pass(name: str) -> None:
    """alpha's multipliers go by it. A projection stands right after its block's convolutions."""
    net = on_meta(name).eval()
    order: list[nn.Module] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda module, *_: order.append(module))
    net(torch.empty(2, 3, 32, 32, device="meta"))
    assert [id(module.weight) for module in order] == [id(p) for p in net.parameters()]


@pytest.mark.parametrize(
    ("name", "momentum", "eps"),
    [
        *((name, 0.01, 1e-3) for name in LAYER_ROTATION if name not in ("c10-cnn1-small", "tiny-cnn")),
        ("c10-cnn1-small", 0.1, 1e-5),
        ("tiny-cnn", 0.1, 1e-3),
        ("resnet-18", 0.1, 1e-5),
    ],
)
def test_batchnorm_averages_as_the_papers_code_does(name: str, momentum: float, eps: float) -> None:
    norms = [m for m in on_meta(name).modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps, norm.affine) for norm in norms} == {(momentum, eps, name == "resnet-18")}
    with torch.device("meta"):
        changed = MODELS[name]((3, 32, 32), 10, momentum=0.2) if name in LAYER_ROTATION else None
    if changed is not None:
        assert {m.momentum for m in changed.modules() if isinstance(m, nn.BatchNorm2d)} == {0.2}


@pytest.mark.parametrize(
    ("name", "number", "variance"),
    [
        ("c10-cnn1", 10, 2 / (9 * 64)),  # He: 2 / fan-in
        ("torch-blog-vgg", 2, 2 / (9 * 64)),
        ("resnet-32", -2, 2 / (9 * 64)),
        ("wrn-28-10", 1, 2 / (9 * (16 + 160))),  # Glorot: 2 / (fan-in + fan-out)
        ("mlp-deep", 5, 2 / 784),
        ("mlp-784", 4, 2 / (784 + 10)),
        ("resnet-18", 3, 1 / (3 * 9 * 64)),  # torch's own: uniform to 1 / sqrt(fan-in)
    ],
)
def test_initial_weights_have_the_variance_of_their_rule(name: str, number: int, variance: float) -> None:
    torch.manual_seed(0)
    weight = list(MODELS[name]((3, 32, 32), 10).parameters())[number].detach()
    assert weight.var().item() == pytest.approx(variance, rel=0.05)
    uniform = weight.abs().max().item() < 1.75 * weight.std().item()
    assert uniform == (name in ("c10-cnn1", "wrn-28-10", "mlp-784", "resnet-18"))


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("c10-cnn1", [32, 16, 8, 4]),
        ("tiny-cnn", [32, 16, 8, 4, 2]),
        ("torch-blog-vgg", [32, 16, 8, 4, 2]),
        ("resnet-32", [32, 16, 8]),
        ("wrn-28-10", [32, 16, 8]),
        ("resnet-18", [32, 16, 8, 4]),
    ],
)
def test_maps_halve_from_stage_to_stage(name: str, sides: list[int]) -> None:
    net, found = on_meta(name).eval(), []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: found.append(output.shape[-1]))
    net(torch.empty(1, 3, 32, 32, device="meta"))
    assert list(dict.fromkeys(found)) == sides


def test_widths_and_depths_are_keywords() -> None:
    net = MLP((1, 8, 8), 10, width=32, depth=5)
    assert [tuple(p.shape) for p in net.parameters() if p.ndim == 2] == [(32, 64), *[(32, 32)] * 4, (10, 32)]
    assert [tuple(p.shape) for p in MLP((4,), 2, depth=0, bias=False).parameters()] == [(2, 4)]
    small = MODELS["c10-cnn1-small"]((3, 32, 32), 10, width=4, convs=2)
    assert [p.shape[0] for p in small.parameters()] == [4, 4, 8, 8, 16, 16, 32, 32, 10]
    narrow = [p.shape for p in MODELS["resnet-18-narrow"]((3, 32, 32), 10).parameters()]
    assert narrow == [p.shape for p in ResNet18((3, 32, 32), 10, width=16).parameters()]
    assert narrow[0] == (16, 3, 3, 3)


def test_depths_that_there_are_not_are_refused() -> None:
    with pytest.raises(UsageError, match="depth 33: must be 6n"):
        CifarResNet((3, 32, 32), 10, depth=33)
    with pytest.raises(UsageError, match="depth 27: must be 6n"):
        WideResNet((3, 32, 32), 10, depth=27)
    with pytest.raises(UsageError, match="width=0"):
        MLP((3, 32, 32), 10, width=0)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_the_commands_and_the_readme_list_every_model_and_data_set(command: str) -> None:
    module = importlib.import_module(f"layerpace.commands.{command}")
    assert set(get_args(DataName)) == set(DEFAULTS) == set(DEFAULT_MODEL)
    source = Path(str(module.__file__)).read_text()
    listed = source[source.index("        model\n") : source.index("        task\n            A task")]
    assert set(re.findall(r"[a-z][a-z0-9-]+[a-z0-9]", listed)) >= set(MODELS)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in (*MODELS, *DEFAULTS))


def test_a_residual_block_adds_its_input() -> None:
    """With the second convolution at zero a v1 block is ReLU of its input, a wide one its input."""
    v1, wide = CifarResNet((3, 8, 8), 10, depth=8).blocks[0], WideResNet((3, 8, 8), 10, depth=10, widen=1).blocks[0]
    x = torch.randn(4, 16, 8, 8)
    for block, expected in ((v1, x.relu()), (wide, x)):
        nn.init.zeros_(block.conv2.weight)
        torch.testing.assert_close(block(x), expected)


def test_bad_scales_change_the_layers_and_not_the_function() -> None:
    """The initial function is that of the well-scaled network; SGD's relative updates go as 1 / scale**2."""
    images, targets = torch.rand(16, 1, 8, 8, dtype=torch.float64), torch.arange(16) % 10

    def relative_gradients(scales: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        net = DigitsCNN((1, 8, 8), 10, scales).double()
        outputs = net(images)
        nn.functional.cross_entropy(outputs, targets).backward()
        matrices = [p for p in net.parameters() if p.ndim > 1]
        return outputs.detach(), torch.stack(
            [p.grad.norm() / p.detach().norm() for p in matrices if p.grad is not None]
        )

    scaled, plain = relative_gradients(DIGITS_SCALES), relative_gradients((1.0,) * 5)
    torch.testing.assert_close(scaled[0], plain[0])
    torch.testing.assert_close(scaled[1], plain[1] / torch.tensor(DIGITS_SCALES, dtype=torch.float64) ** 2)
    layer = DigitsCNN((1, 8, 8), 10).conv2
    assert layer.weight.std().item() == pytest.approx(DIGITS_SCALES[1] * (2 / 144) ** 0.5, rel=0.05)  # He: fan-in 144
    assert max(DIGITS_SCALES) ** 2 / min(DIGITS_SCALES) ** 2 == 65_536


def test_percentdelta_cnn_is_the_tutorials() -> None:
    net = MODELS["percentdelta-cnn"]((1, 28, 28), 10)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert shapes == {
        "conv1.weight": (32, 1, 5, 5),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 5, 5),
        "conv2.bias": (64,),
        "fc1.weight": (1024, 3136),
        "fc1.bias": (1024,),
        "fc2.weight": (10, 1024),
        "fc2.bias": (10,),
    }
    parameters = dict(net.named_parameters())
    assert all((p == 0.1).all() for name, p in parameters.items() if name.endswith("bias"))
    weight = parameters["fc1.weight"]
    assert weight.abs().max() <= 0.2
    assert weight.std().item() == pytest.approx(0.1 * 0.8796, rel=0.01)  # sd of a normal cut at two of its sds


def test_c10_cnn1_small_has_only_kernels() -> None:
    net = MODELS["c10-cnn1-small"]((3, 32, 32), 10)
    assert [p.ndim for p in net.parameters()] == [4] * 12 + [2]
    assert [p.shape[0] for p in net.parameters()] == [16] * 3 + [32] * 3 + [64] * 3 + [128] * 3 + [10]


@pytest.mark.parametrize("shape", [(64, 1000), (7, 13), (1,)])
def test_half_dropout_drops_half_and_doubles_the_rest(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = HalfDropout(), torch.ones(shape, requires_grad=True)
    y = layer(x)
    assert set(y.unique().tolist()) <= {0.0, 2.0}
    if y.numel() > 1000:
        assert y.mean().item() == pytest.approx(1, abs=0.02)
        columns = y.mean(0)
        assert columns.std().item() == pytest.approx(1 / 8, rel=0.1)  # independent coins down each column of 64
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    assert not torch.equal(layer(torch.ones(64, 64)), layer(torch.ones(64, 64)))
    assert layer.eval()(x) is x
