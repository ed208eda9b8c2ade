"""The networks the lab trains: `MODELS[name](input_shape, classes)` makes one, freshly initialised.

Initial weights come from torch's global generator, so the seed set before the call decides them. Keywords of the
classes (width, depth, BatchNorm's momentum) make families of them: `MODELS["mlp"]((1, 28, 28), 10, width=64, depth=8)`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from .biased import DIGITS_SCALES, DigitsCNN, HalfDropout, PercentDeltaCNN
from .mlps import MLP, DeepMLP, NormedMLP
from .plain import C10CNN1, C10CNN1Small, PlainCNN, TinyCNN, TorchBlogVGG
from .residual import CifarResNet, ResNet18, WideResNet

# (input_shape, classes, **options) -> a network of [N, *input_shape] to [N, classes]; options: keywords of its class
ModelFactory = Callable[..., nn.Module]

MODELS: dict[str, ModelFactory] = {
    "digits-cnn": DigitsCNN,
    "percentdelta-cnn": PercentDeltaCNN,
    "c10-cnn1": C10CNN1,
    "c10-cnn1-small": C10CNN1Small,
    "tiny-cnn": TinyCNN,
    "torch-blog-vgg": TorchBlogVGG,
    "resnet-32": partial(CifarResNet, depth=32),
    "resnet-110": partial(CifarResNet, depth=110),
    "wrn-28-10": WideResNet,
    "resnet-18": ResNet18,
    "resnet-18-narrow": partial(ResNet18, width=16),
    "mlp": MLP,
    "mlp-deep": DeepMLP,
    "mlp-784": NormedMLP,
}

DEFAULT_MODEL = {
    "digits": "digits-cnn",
    "mnist": "percentdelta-cnn",
    "fashion-mnist": "percentdelta-cnn",
    "cifar10": "c10-cnn1-small",
    "cifar100": "c10-cnn1-small",
    "tiny-imagenet": "tiny-cnn",
    "imagenet64": "resnet-18",
}

__all__ = [
    "C10CNN1",
    "DEFAULT_MODEL",
    "DIGITS_SCALES",
    "MLP",
    "MODELS",
    "C10CNN1Small",
    "CifarResNet",
    "DeepMLP",
    "DigitsCNN",
    "HalfDropout",
    "ModelFactory",
    "NormedMLP",
    "PercentDeltaCNN",
    "PlainCNN",
    "ResNet18",
    "TinyCNN",
    "TorchBlogVGG",
    "WideResNet",
]
