from __future__ import annotations

import pytest
import torch
from torch import nn

from layerpace.lab.models import DEFAULT_MODEL, DIGITS_SCALES, MODELS, DigitsCNN, HalfDropout

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
}


@pytest.mark.parametrize("data", DEFAULT_MODEL)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_every_data_set(name: str, data: str) -> None:
    torch.manual_seed(0)
    net = MODELS[name](SHAPES[data], 7)
    outputs = net(torch.rand(2, *SHAPES[data]))
    assert outputs.shape == (2, 7)
    assert outputs.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in MODELS[name]((1, 8, 8), 10).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


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
