"""Trainings on scikit-learn's digits: networks that are broken on purpose, and healthy ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import layerpace as lp
from layerpace.monitors.diagnose import SEVERITIES, Finding, Severity
from layerpace.monitors.monitor import Monitor
from layerpace.monitors.run import Run

BATCH = 64
Optimizer = torch.optim.Optimizer
Schedule = Callable[[int, int], float]


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 64] of mean 0 and variance 1, classes [1797]."""
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    x = torch.tensor(data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(target)


# Networks. Each takes images [N, 64].


def mlp(depth: int = 4, width: int = 48, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """``depth`` linear layers, named 0, 2, 4, ..."""
    sizes = [64] + [width] * (depth - 1) + [10]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Sequential:
    """Convolutions with biases before BatchNorm, as many write them."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


class Block(nn.Module):
    """A residual block whose last norm scale may start at zero."""

    def __init__(self, channels: int, zero: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        if zero:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def resnet(zero: bool = True) -> nn.Sequential:
    """A stem, two residual blocks, a classifier."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        Block(12, zero), Block(12, zero),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


class Transformer(nn.Module):
    """Eight tokens, the rows of an image, or 16 of a vocabulary of 17 greys; two layers; the mean is classified."""

    def __init__(self, vocabulary: bool = False, width: int = 32) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embed: nn.Module = nn.Embedding(17, width) if vocabulary else nn.Linear(8, width)
        self.position = nn.Parameter(torch.randn(16, width) if vocabulary else 0.02 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.vocabulary:
            grey = F.avg_pool2d(x.reshape(-1, 1, 8, 8), 2).flatten(1)
            tokens = ((grey + 1) * 6).round().clamp(0, 16).long()
        else:
            tokens = x.reshape(-1, 8, 8)
        return self.head(self.norm(self.encoder(self.embed(tokens) + self.position).mean(1)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP": mlp,
    "CNN": cnn,
    "ResNet": resnet,
    "transformer": Transformer,
    "transformer, vocabulary": lambda: Transformer(vocabulary=True),
}

# Methods, with learning rates that train these networks well.
METHODS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=5e-4),
    "Adam": lambda p: torch.optim.Adam(p, 2e-3),
    "AdamW": lambda p: torch.optim.AdamW(p, 2e-3, weight_decay=0.05),
    "LAMB": lambda p: lp.LAMB(p, 0.01, weight_decay=0.01),
    "LAMBC": lambda p: lp.LAMBC(p, 0.02, weight_decay=0.01, trust_clip=0.2),
    "LARS": lambda p: lp.LARS(p, 0.02, trust_coefficient=0.1, weight_decay=1e-4),
    "PercentDelta": lambda p: lp.PercentDelta(p, 0.03),
    "Layca": lambda p: lp.Layca(p, 3**-4, momentum=0.9),
}

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda step, steps: 1.0,
    "warm-up, cosine": lambda step, steps: (
        min(1.0, step / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    ),
    "warm restarts": lambda step, steps: 0.5 * (1 + math.cos(math.pi * (step % (steps // 3)) / (steps // 3))),
}


@dataclass(frozen=True)
class Training:
    """How to train a network.

    Attributes:
        make: makes it and its optimizer.
        schedule: (step, steps) -> factor on the learning rates.
        before_step: called with (model, step) between backward and the optimizer's step.
        loss: of (model, x [N, 64], y [N]).
    """

    make: Callable[[], tuple[nn.Module, Optimizer | list[Optimizer]]]
    schedule: Schedule = SCHEDULES["constant"]
    before_step: Callable[[nn.Module, int], None] | None = None
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = field(default=lambda m, x, y: F.cross_entropy(m(x), y))


@dataclass(frozen=True)
class Broken(Training):
    """A training with a fault.

    Attributes:
        kinds: findings any of which tells of the fault.
        layer: the one that the finding must name; None: the training as a whole.
        severity: the least that it must have.
        steps: of the training; None: as many as are usual.
    """

    kinds: tuple[str, ...] = ()
    layer: str | None = None
    severity: Severity = "warning"
    steps: int | None = None


def tells(case: Broken, finding: Finding) -> bool:
    """Whether a finding is the one that a broken training stands for."""
    severe = SEVERITIES.index(finding.severity) <= SEVERITIES.index(case.severity)
    return severe and finding.kind in case.kinds and (case.layer is None or case.layer in finding.layers)


def train(training: Training, steps: int, seed: int = 0, every: int = 5) -> Run:
    """Train on digits, on one thread, and return what a Monitor recorded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads on networks so small wait for each other most of the time
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _train(training, steps, seed, every)
    finally:
        torch.set_num_threads(threads)


def _train(training: Training, steps: int, seed: int, every: int) -> Run:
    model, optimizers = training.make()
    each = optimizers if isinstance(optimizers, list) else [optimizers]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: training.schedule(step, steps)) for optimizer in each
    ]
    x, y = digits()
    generator = torch.Generator().manual_seed(seed)
    outputs: list[Tensor] = []
    model.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    monitor = Monitor(model, each, every, out=None, rotation_every=every)
    for step in range(steps):
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        model.zero_grad()
        loss = training.loss(model, x[batch], y[batch])
        loss.backward()
        if training.before_step is not None:
            training.before_step(model, step + 1)
        for optimizer, scheduler in zip(each, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        if step % every == 0:
            right = outputs[-1].argmax(1) == y[batch]
            monitor.log({"loss": float(loss.detach()), "accuracy": float(right.float().mean())})
    run = monitor.run
    monitor.close()
    return run


def healthy(network: str, method: str, schedule: str) -> Training:
    """A training without a fault."""

    def make() -> tuple[nn.Module, Optimizer]:
        model = NETWORKS[network]()
        return model, METHODS[method](model.parameters())

    return Training(make, SCHEDULES[schedule])


def _mlp(change: Callable[[nn.Sequential], None], method: str = "SGD", **options: Any) -> Training:
    def make() -> tuple[nn.Module, Optimizer]:
        model = mlp(**options)
        change(model)
        return model, METHODS[method](model.parameters())

    return Training(make)


def _grouped(make: Callable[[nn.Module], tuple[nn.Module, Optimizer]], network: str = "MLP") -> Training:
    return Training(lambda: make(NETWORKS[network]()))


def _scale(model: nn.Module, layer: str, factor: float) -> None:
    with torch.no_grad():
        model.get_parameter(layer).mul_(factor)


def _kill(model: nn.Module) -> None:
    nn.init.constant_(model.get_parameter("2.bias"), -100.0)


def _freeze(model: nn.Module) -> None:
    model.get_parameter("2.weight").requires_grad_(False)


def _kill_at(model: nn.Module, step: int) -> None:
    if step == 60:
        _kill(model)


def _without(name: str) -> Callable[[nn.Module], tuple[nn.Module, Optimizer]]:
    return lambda m: (m, METHODS["Adam"]([p for n, p in m.named_parameters() if n != name]))


def _group_rate(names: tuple[str, ...], factor: float, method: str) -> Callable[[Any], tuple[nn.Module, Optimizer]]:
    def make(model: nn.Module) -> tuple[nn.Module, Optimizer]:
        optimizer = METHODS[method](
            [
                {"params": [p for n, p in model.named_parameters() if n not in names]},
                {"params": [p for n, p in model.named_parameters() if n in names]},
            ]
        )
        optimizer.param_groups[1]["lr"] *= factor
        return model, optimizer

    return make


class Detached(nn.Module):
    """Two branches, one of which is cut off from the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.head = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x))
        return self.head(hidden + F.relu(self.branch(hidden)).detach())


def _detached() -> tuple[nn.Module, Optimizer]:
    model = Detached()
    return model, METHODS["SGD"](model.parameters())


def _bad_gradient(name: str, at: int) -> Callable[[nn.Module, int], None]:
    def change(model: nn.Module, step: int) -> None:
        grad = model.get_parameter(name).grad
        if step == at and grad is not None:
            grad.view(-1)[0] = float("nan")

    return change


def _bad_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.seen = getattr(model, "seen", 0) + 1  # type: ignore[assignment]
    loss = F.cross_entropy(model(x), y)
    return loss * math.inf if int(model.seen) == 60 else loss  # type: ignore[arg-type]


def _optimized(model: nn.Module, optimizer: Callable[[Any], Optimizer]) -> tuple[nn.Module, Optimizer]:
    return model, optimizer(model.parameters())


def _with(make: Callable[[Any], Optimizer], network: str = "MLP") -> Training:
    return Training(lambda: _optimized(NETWORKS[network](), make))


def _broken(
    training: Training,
    kinds: str,
    layer: str | None = None,
    severity: Severity = "warning",
    steps: int | None = None,
) -> Broken:
    return Broken(
        training.make,
        training.schedule,
        training.before_step,
        training.loss,
        kinds=tuple(kinds.split()),
        layer=layer,
        severity=severity,
        steps=steps,
    )


def _nothing(model: nn.Module) -> None:
    pass


def _half() -> tuple[nn.Module, Optimizer]:
    model = mlp().to(torch.bfloat16)
    return model, torch.optim.AdamW(model.parameters(), 3e-6)


def _half_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x.bfloat16()).float(), y)


def _two(model: nn.Module) -> tuple[nn.Module, list[Optimizer]]:
    """Two optimizers; the second has learning rate 0."""
    first = torch.optim.Adam([p for n, p in model.named_parameters() if n != "4.weight"], 2e-3)
    return model, [first, torch.optim.SGD([model.get_parameter("4.weight")], 0.0)]


SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
BROKEN: dict[str, Broken] = {
    "dead ReLU from the start": _broken(_mlp(_kill), "no_gradient", "2.weight"),
    "dead ReLU from the start, AdamW": _broken(_mlp(_kill, "AdamW"), "no_gradient", "2.weight"),
    "dead ReLU at step 60": _broken(replace(_mlp(_nothing), before_step=_kill_at), "no_gradient", "2.weight"),
    "frozen by requires_grad": _broken(_mlp(_freeze), "untrained", "2.weight"),
    "left out of the optimizer": _broken(_grouped(_without("4.weight")), "untrained", "4.weight"),
    "detached branch": _broken(Training(_detached), "no_gradient", "branch.weight"),
    "a group with lr 0": _broken(_grouped(_group_rate(("2.weight",), 0.0, "Adam")), "zero_rate", "2.weight"),
    "an optimizer with lr 0": _broken(Training(lambda: _two(mlp())), "zero_rate", "4.weight"),
    "a group with lr x 100, Adam": _broken(
        _grouped(_group_rate(("4.weight",), 100.0, "Adam")), "out_of_step runaway", "4.weight"
    ),
    "a group with lr x 100, LAMB": _broken(
        _grouped(_group_rate(("4.weight",), 100.0, "LAMB")), "out_of_step runaway", "4.weight"
    ),
    "a group with lr x 0.01, SGD": _broken(
        _grouped(_group_rate(("4.weight",), 0.01, "SGD")), "out_of_step", "4.weight"
    ),
    "half of the network with lr x 0.01": _broken(
        _grouped(_group_rate(("0.weight", "2.weight"), 0.01, "Adam")), "out_of_step", "0.weight"
    ),
    "a layer initialised x 0.01, Adam": _broken(
        _mlp(lambda m: _scale(m, "2.weight", 0.01), "Adam"), "initial_scale", "2.weight"
    ),
    "a layer initialised x 100, Adam": _broken(
        _mlp(lambda m: _scale(m, "2.weight", 100.0), "Adam"), "initial_scale out_of_step", "2.weight"
    ),
    "a layer initialised x 100, LAMB": _broken(
        _mlp(lambda m: _scale(m, "4.weight", 100.0), "LAMB"), "initial_scale out_of_step", "4.weight"
    ),
    "lr so large that it diverges, SGD": _broken(
        _with(lambda p: SGD(p, 5.0, momentum=0.9)), "nonfinite diverging learning_rate_high runaway no_gradient"
    ),
    "lr so large that it diverges, Adam": _broken(
        _with(lambda p: torch.optim.Adam(p, 1.0)), "diverging learning_rate_high runaway"
    ),
    "lr too high for Layca": _broken(_with(lambda p: lp.Layca(p, 1.0)), "learning_rate_high"),
    "gradient ascent": _broken(_with(lambda p: SGD(p, 0.2, maximize=True)), "diverging nonfinite runaway"),
    "nan in one gradient at step 60": _broken(
        replace(_mlp(_nothing), before_step=_bad_gradient("4.weight", 60)), "nonfinite", "4.weight", "error"
    ),
    "infinite loss at step 60": _broken(replace(_mlp(_nothing), loss=_bad_loss), "nonfinite", None, "error"),
    "deep sigmoid network, SGD": _broken(
        _mlp(_nothing, "SGD", depth=9, act=nn.Sigmoid), "vanishing_gradient", "0.weight"
    ),
    "deep network of signs, large weights": _broken(
        Training(lambda: _exploding()), "exploding_gradient", "0.weight"
    ),
    "LAMBC with its clip far too low": _broken(_with(lambda p: lp.LAMBC(p, 0.01, trust_clip=1e-4)), "clip_always"),
    "LAMBC with its clip far too high": _broken(
        _with(lambda p: lp.LAMBC(p, 0.01, trust_clip=1e4)), "clip_never", None, "note"
    ),
    "SGD with a tiny lr": _broken(_with(lambda p: SGD(p, 1e-7)), "learning_rate_low"),
    "AdamW with a tiny lr": _broken(_with(lambda p: ADAMW(p, 1e-9, weight_decay=0.0)), "learning_rate_low"),
    "bfloat16 weights without a master copy": _broken(
        Training(_half, loss=_half_loss), "lost_to_rounding no_update", "2.weight"
    ),
    "SGD whose lr falls after a tenth": _broken(
        replace(_with(lambda p: SGD(p, 0.05)), schedule=lambda s, n: 1.0 if s < n / 10 else 0.001),
        "rotation_stalled", None, "note", 600,
    ),
}  # fmt: skip


class Sign(nn.Module):
    """The sign, with the gradient of the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.sign() - x).detach()


def _exploding() -> tuple[nn.Module, Optimizer]:
    """What comes in stays of one size, and the gradient grows by the weights on its way back."""
    model = mlp(depth=9, act=Sign)
    for name in ("2", "4", "6", "8", "10", "12", "14"):
        _scale(model, f"{name}.weight", 10.0)
    return model, SGD(model.parameters(), 1e-4)
