"""Rates by depth for any torch optimizer: what depth each parameter has, and that schedulers keep the ratios."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.layers.test_wrappers import AROUND
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

import layerpace as lp

os.environ["HF_HUB_OFFLINE"] = "1"

Groups = list[dict[str, Any]]


def by_name(groups: Groups, key: str = "depth") -> dict[str, Any]:
    found = {name: group[key] for group in groups for name, _ in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


def depths(model: nn.Module, example_input: Any = None) -> dict[str, int]:
    return by_name(lp.layers.decay(model, 0.5, 1.0, example_input))


def check_depths(model: nn.Module, patterns: dict[str, int], example_input: Any = None) -> None:
    """The depth of each parameter is that of the first pattern that its name begins with."""
    found = depths(model, example_input)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, depth in found.items():
        expected = next((value for pattern, value in patterns.items() if re.match(pattern, name)), None)
        assert depth == expected, name


# Networks


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))  # type: ignore[no-any-return]


class Network(nn.Module):
    """Registers its head first and the norm of its embedding last."""

    def __init__(self, count: int = 3, tied: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(4, 9, bias=False)
        self.final = nn.LayerNorm(4)
        self.layers = nn.ModuleList([Block(4) for _ in range(count)])
        self.embed = nn.Embedding(9, 4)
        self.first = nn.LayerNorm(4)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.first(self.embed(tokens))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.final(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """The names and the order of timm's, at a width of 4."""

    def __init__(self, count: int = 12) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 4, 2)})
        self.blocks = nn.Sequential(*(Block(4) for _ in range(count)))
        self.norm = nn.LayerNorm(4)
        self.fc_norm = nn.Identity()
        self.head = nn.Linear(4, 3)


class Bottleneck(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, 2, 1), nn.BatchNorm2d(2)
        self.conv2, self.bn2 = nn.Conv2d(2, outer, 3, padding=1), nn.BatchNorm2d(outer)
        self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1), nn.BatchNorm2d(outer)) if inner != outer else None


class ResNet(nn.Module):
    def __init__(self, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        for stage, count in enumerate(counts):
            width = 4 * 2**stage
            rest = [Bottleneck(2 * width, 2 * width) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(Bottleneck(width, 2 * width), *rest))
        self.fc = nn.Linear(4 * 2 ** len(counts), 3)


class Stage(nn.Module):
    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(count)])
        self.downsample = nn.Linear(width, 2 * width)


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)


class WithExperts(nn.Module):
    """A block that repeats parts of its own, side by side."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.experts = nn.ModuleList([Expert() for _ in range(count)])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def attributes() -> nn.Module:
    model = nn.Module()
    model.stem = nn.Linear(3, 4)
    model.block1, model.block2, model.block3 = Block(4), Block(4), Block(4)
    model.head = nn.Linear(4, 2)
    return model


# Each: the network, and which depth names that begin so have
STRUCTURES: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "a ViT as timm's": (
        VisionTransformer,
        {"cls_token|pos_embed|patch_embed": 0, **{rf"blocks\.{i}\.": i + 1 for i in range(12)}, "norm|head": 13},
    ),
    "a ResNet": (
        lambda: ResNet((3, 2)),
        {"conv1|bn1": 0, **{rf"layer1\.{i}": i + 1 for i in range(3)}, r"layer2\.0": 4, r"layer2\.1": 5, "fc": 6},
    ),
    "a ResNet with one block a stage": (
        lambda: ResNet((1, 1, 1)),
        {"conv1|bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "fc": 4},
    ),
    "a ResNet within a Sequential": (
        lambda: nn.Sequential(ResNet((1, 1)), nn.Linear(3, 2)),
        {r"0\.(conv1|bn1)": 0, r"0\.layer1": 1, r"0\.layer2": 2, r"0\.fc|1\.": 3},
    ),
    "stages": (
        lambda: nn.ModuleList([Stage(4, 2), Stage(8, 1), Stage(16, 2)]),
        {r"0\.blocks\.0": 1, r"0\.": 2, r"1\.": 3, r"2\.blocks\.0": 4, r"2\.blocks\.1": 5, r"2\.d": 6},
    ),
    "blocks with experts": (
        lambda: nn.Sequential(nn.Embedding(5, 4), nn.ModuleList([WithExperts(3), WithExperts(3)]), nn.Linear(4, 5)),
        {r"0\.": 0, r"1\.0\.": 1, r"1\.1\.": 2, r"2\.": 3},
    ),
    "a block without experts, and one with": (
        lambda: nn.ModuleList([WithExperts(0), WithExperts(3)]),
        {r"0\.": 1, r"1\.": 2},
    ),
    "blocks of two types": (
        lambda: nn.Sequential(nn.Linear(3, 4), Block(4), WithExperts(2), Block(4), nn.LayerNorm(4), nn.Linear(4, 2)),
        {r"0\.": 0, r"1\.": 1, r"2\.": 2, r"3\.": 3, r"[45]\.": 4},
    ),
    "one block": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ModuleList([Block(4)]), nn.Linear(4, 2)),
        {r"0\.": 0, r"1\.": 1, r"2\.": 2},
    ),
    "blocks as attributes": (attributes, {"stem": 0, "block1": 1, "block2": 2, "block3": 3, "head": 4}),
    "blocks that are Sequentials": (
        lambda: nn.ModuleList([mlp(), mlp()]),
        {r"0\.": 1, r"1\.": 2},
    ),
    "an encoder, then a decoder": (
        lambda: nn.Transformer(4, 2, 2, 2, 8, batch_first=True),
        {
            r"encoder\.layers\.0": 1,
            "encoder": 2,
            r"decoder\.layers\.0": 3,
            r"decoder\.layers\.1": 4,
            r"decoder\.norm": 5,
        },
    ),
    "nothing repeats: a layer is a depth": (
        lambda: nn.Sequential(
            nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)
        ),
        {r"[012]\.": 0, r"4\.": 1, r"5\.": 2},
    ),
    "heads of tasks lie side by side": (
        lambda: nn.Sequential(nn.ModuleList([Block(4), Block(4)]), nn.ModuleDict({"a": mlp(), "b": mlp()})),
        {r"0\.0": 1, r"0\.1": 2, r"1\.": 3},
    ),
    "vectors only": (lambda: nn.Sequential(nn.LayerNorm(3), nn.LayerNorm(3)), {"": 0}),
}


@pytest.mark.parametrize(("make", "patterns"), STRUCTURES.values(), ids=STRUCTURES)
def test_depths_follow_from_structure(make: Callable[[], nn.Module], patterns: dict[str, int]) -> None:
    check_depths(make(), patterns)


SMALL = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}


def transformers_models() -> dict[str, tuple[Callable[[Any], nn.Module], dict[str, int], dict[str, Tensor] | None]]:
    tokens = {"input_ids": torch.arange(4)[None]}
    return {
        "BERT": (
            lambda t: t.BertForSequenceClassification(t.BertConfig(vocab_size=9, num_hidden_layers=3, **SMALL)),
            {
                r"bert\.embeddings": 0,
                **{rf"bert\.encoder\.layer\.{i}\.": i + 1 for i in range(3)},
                r"bert\.pooler|classifier": 4,
            },
            tokens,
        ),
        "BERT of one layer": (
            lambda t: t.BertForMaskedLM(t.BertConfig(vocab_size=9, num_hidden_layers=1, **SMALL)),
            {r"bert\.embeddings": 0, r"bert\.encoder": 1, "cls": 2},
            tokens,
        ),
        "ViT": (
            lambda t: t.ViTForImageClassification(
                t.ViTConfig(image_size=8, patch_size=4, num_hidden_layers=3, **SMALL)
            ),
            {
                r"vit\.embeddings": 0,
                **{rf"vit\.(encoder\.)?layers?\.{i}\.": i + 1 for i in range(3)},
                r"vit\.layernorm|classifier": 4,
            },
            {"pixel_values": torch.zeros(1, 3, 8, 8)},
        ),
        "GPT-2": (
            lambda t: t.GPT2LMHeadModel(
                t.GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0)
            ),
            {
                r"transformer\.w[tp]e": 0,
                **{rf"transformer\.h\.{i}\.": i + 1 for i in range(3)},
                r"transformer\.ln_f": 4,
            },
            tokens,
        ),
    }


@pytest.mark.parametrize("measured", [False, True], ids=["as registered", "as called"])
@pytest.mark.parametrize("name", transformers_models())
def test_models_of_transformers(name: str, measured: bool) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    make, patterns, example = transformers_models()[name]
    check_depths(make(transformers), patterns, example if measured else None)


def test_scales_are_timms() -> None:
    """Those that `param_groups_layer_decay` of timm 1.0.31 gives to vit_tiny_patch16_224; the final norm differs."""
    scales = by_name(lp.layers.decay(VisionTransformer(), 0.75, 2e-3), "rate_scale")
    stem = {"cls_token": 0, "pos_embed": 0, "patch_embed.proj.weight": 0, "patch_embed.proj.bias": 0}
    blocks = {name: int(name.split(".")[1]) + 1 for name in scales if name.startswith("blocks.")}
    layer = stem | blocks | {"head.weight": 13, "head.bias": 13}
    assert set(scales) - set(layer) == {"norm.weight", "norm.bias"}
    for name, number in layer.items():
        assert scales[name] == pytest.approx(0.75 ** (13 - number), rel=1e-14)
    assert scales["norm.weight"] == scales["norm.bias"] == 1.0  # timm: 0.75, that of the last block; BEiT: 1


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "resnet18", "densenet121"])
def test_against_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=3)
    names = {param: name for name, param in model.named_parameters()}
    theirs = {
        names[param]: (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(model, 0.05, layer_decay=0.75)
        for param in group["params"]
    }
    ours = lp.layers.decay(model, 0.75, 1e-3, weight_decay=0.05)
    scales, decays = by_name(ours, "rate_scale"), by_name(ours, "weight_decay")
    assert set(scales) == set(theirs)
    for param, (scale, weight_decay) in theirs.items():
        if name == "vit_tiny_patch16_224" and param.startswith("norm."):
            scale /= 0.75
        assert scales[param] == pytest.approx(scale, rel=1e-12), param
        assert decays[param] == weight_decay


# Forward order, ties, frozen parameters, wrappers


def test_forward_order_is_measured() -> None:
    model, tokens = Network().train(), torch.arange(4)
    layers = {rf"layers\.{i}\.": i + 1 for i in range(3)}
    check_depths(model, {"embed|first": 0, **layers, "final|head": 4}, tokens)
    check_depths(model, {"embed|first": 0, **layers, "final|head": 4}, {"tokens": tokens})
    check_depths(model, {"embed|first": 4, **layers, "final|head": 0})  # as registered
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_tied_weights_count_once_where_they_come_first() -> None:
    found = depths(Network(tied=True), torch.arange(4))
    assert found["head.weight"] == 0  # the name that torch gives to the tensor
    assert "embed.weight" not in found
    assert found["final.weight"] == 4


def test_a_block_that_is_called_twice_counts_once() -> None:
    shared = Block(4)
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(Block(4), shared, Block(4), shared), nn.Linear(4, 2))
    check_depths(model, {r"0\.": 0, r"1\.0": 1, r"1\.1": 2, r"1\.2": 3, r"2\.": 4}, torch.zeros(2, 3))


def test_frozen_parameters_are_left_out_and_shift_nothing() -> None:
    model, tokens = Network(), torch.arange(4)
    everything = depths(model, tokens)
    frozen = ("embed", "layers.1", "head")
    for name, param in model.named_parameters():
        param.requires_grad_(not name.startswith(frozen))
    assert depths(model, tokens) == {k: v for k, v in everything.items() if not k.startswith(frozen)}
    model.final.requires_grad_(False)  # nothing of the last depth is left, and block 2 keeps its rate
    groups = lp.layers.decay(model, 0.5, 1.0, tokens)
    trained = by_name(groups, "lr")
    assert trained["layers.2.up.weight"] == 0.5
    optimizer = torch.optim.AdamW(groups)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    model(tokens).square().sum().backward()
    optimizer.step()
    moved = {name for name, param in model.named_parameters() if not torch.equal(before[name], param)}
    assert moved == set(trained)


def test_adapters_on_a_frozen_base() -> None:
    """LoRA: what is trained has the depth of the block that it is in."""

    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base_layer = base.requires_grad_(False)
            self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    model = VisionTransformer(4).requires_grad_(False)
    for block in model.blocks:
        block.up, block.down = Adapted(block.up), Adapted(block.down)  # type: ignore[assignment, arg-type]
    model.head.requires_grad_(True)
    found = depths(model)
    assert len(found) == 4 * 2 * 2 + 2
    for name, depth in found.items():
        assert depth == (5 if name.startswith("head") else int(name.split(".")[1]) + 1)


@pytest.mark.parametrize("kind", [kind for kind in AROUND if kind != "FSDP1"])
def test_wrappers_change_neither_depths_nor_names(kind: str) -> None:
    model = Network()
    assert depths(AROUND[kind](model), torch.arange(4)) == depths(model, torch.arange(4))


def test_wrapped_blocks_are_those_of_the_model() -> None:
    model = Network()
    expected = depths(model)
    model.layers[1] = AROUND["checkpoints"](model.layers[1])  # of one type with its siblings still
    model.layers[2] = torch.compile(model.layers[2])  # type: ignore[assignment]
    assert depths(AveragedModel(model)) == expected


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[Any]:
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("example", [None, torch.arange(4)], ids=["as registered", "as called"])
def test_shards_of_fsdp2_are_what_is_trained(one_process: Any, example: Tensor | None) -> None:
    """A pass without gradients leaves whole parameters in the place of shards, and nobody would train those."""
    model = Network()
    expected = depths(model, example)
    for layer in model.layers:
        fully_shard(layer, mesh=one_process)
    fully_shard(model, mesh=one_process)
    for groups in (lp.layers.decay(model, 0.5, 1.0, example), lp.layers.prioritize(model, 0.5, example)):
        params = [param for group in groups for _, param in group["params"]]
        assert all(isinstance(param, DTensor) for param in params)
        assert set(params) == set(model.parameters())
    assert depths(model, example) == expected


def test_parameters_without_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match=r"FSDP1 flattens.*fully_shard"):
        lp.layers.decay(nn.Sequential(AROUND["FSDP1"](Network())), 0.5, 1.0)
    model = AROUND["DDP"](Network())
    model.register_parameter("own", nn.Parameter(torch.zeros(7)))
    with pytest.raises(ValueError, match=r"1 of \d+ parameters.*DistributedDataParallel"):
        lp.layers.decay(model, 0.5, 1.0)


# Groups


def test_groups_have_rates_names_and_weight_decay() -> None:
    groups = lp.layers.decay(Network(2), 0.5, 0.08, torch.arange(4), weight_decay=0.05, no_decay=["*.bias", "embed.*"])
    assert [group["depth"] for group in groups] == sorted(group["depth"] for group in groups)
    for group in groups:
        assert group["lr"] == group["initial_lr"] == 0.08 * group["rate_scale"]
        assert group["rate_scale"] == 0.5 ** (3 - group["depth"])
        for name, param in group["params"]:
            assert group["weight_decay"] == (0.0 if name.endswith("bias") or name == "embed.weight" else 0.05)
            assert isinstance(param, nn.Parameter)
    names = [name for group in groups for name, _ in group["params"]]
    optimizer = torch.optim.AdamW(groups)
    assert [name for group in optimizer.param_groups for name in group["param_names"]] == names


@pytest.mark.parametrize(
    ("no_decay", "without"),
    [
        ("auto", lambda name, p: p.ndim <= 1),
        (None, lambda name, p: False),
        ("*.up.*", lambda name, p: ".up." in name),
        (lambda name, p: p.ndim == 2, lambda name, p: p.ndim == 2),
    ],
    ids=["auto", "None", "a glob", "a predicate"],
)
def test_what_has_no_weight_decay(no_decay: Any, without: Callable[[str, Tensor], bool]) -> None:
    model = Network()
    found = by_name(lp.layers.decay(model, 0.5, 0.1, weight_decay=0.3, no_decay=no_decay), "weight_decay")
    assert found == {name: 0.0 if without(name, p) else 0.3 for name, p in model.named_parameters()}
    assert all("weight_decay" not in group for group in lp.layers.decay(model, 0.5, 0.1))


def test_a_factor_of_one_gives_all_the_same_rate() -> None:
    assert {group["lr"] for group in lp.layers.decay(Network(), 1, 0.1)} == {0.1}


def test_numbers_of_numpy_and_tensors() -> None:
    groups = lp.layers.decay(Network(), np.float32(0.5), np.float64(0.1))
    assert all(type(group[key]) is float for group in groups for key in ("lr", "initial_lr", "rate_scale"))
    for lr_scale in (False, True):
        groups = lp.layers.decay(Network(), 0.5, torch.tensor(0.25), torch.arange(4), lr_scale=lr_scale)
        rates = [group[key] for group in groups for key in ("lr", "initial_lr")]
        assert len({rate.data_ptr() for rate in rates}) == len(rates)  # a scheduler writes into each
        assert [float(group["lr"]) for group in groups] == [
            0.25 * (1 if lr_scale else 0.5 ** (4 - k)) for k in range(5)
        ]


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a factor of 0": (lambda: lp.layers.decay(Network(), 0.0, 0.1), ValueError, r"factor must be in \(0, 1\], got 0"),
    "a factor above 1": (lambda: lp.layers.decay(Network(), 1.5, 0.1), ValueError, r"factor.*\(0, 1\].*1\.5"),
    "a factor of nan": (lambda: lp.layers.decay(Network(), math.nan, 0.1), ValueError, "factor"),
    "no number": (lambda: lp.layers.decay(Network(), "0.5", 0.1), TypeError, "factor must be a number"),
    "no lr": (lambda: lp.layers.decay(Network(), 0.5), TypeError, "lr"),  # type: ignore[call-arg]
    "lr of None": (lambda: lp.layers.decay(Network(), 0.5, None), TypeError, "lr must be a number"),  # type: ignore[arg-type]
    "lr of 0": (lambda: lp.layers.decay(Network(), 0.5, 0.0), ValueError, r"lr must be in \(0, inf\), got 0"),
    "several rates": (lambda: lp.layers.decay(Network(), 0.5, torch.ones(2)), ValueError, "lr.*one element"),
    "no parameters": (lambda: lp.layers.decay(nn.ReLU(), 0.5, 0.1), ValueError, "no parameters"),
    "all frozen": (
        lambda: lp.layers.decay(Network().requires_grad_(False), 0.5, 0.1),
        ValueError,
        "all 24 parameters are frozen",
    ),
    "negative decay": (lambda: lp.layers.decay(Network(), 0.5, 0.1, weight_decay=-1), ValueError, "weight_decay"),
    "no_decay alone": (lambda: lp.layers.decay(Network(), 0.5, 0.1, no_decay="*.bias"), ValueError, "needs a weight_"),
    "a glob for nothing": (
        lambda: lp.layers.decay(Network(), 0.5, 0.1, weight_decay=0.1, no_decay=["*.gamma"]),
        ValueError,
        r"no_decay='\*\.gamma' matches no parameter; the names are 'head.weight'",
    ),
    "no globs": (
        lambda: lp.layers.decay(Network(), 0.5, 0.1, weight_decay=0.1, no_decay=3),  # type: ignore[arg-type]
        TypeError,
        "no_decay must be None, a bool",
    ),
    "lr_scale of text": (lambda: lp.layers.decay(Network(), 0.5, 0.1, lr_scale="no"), TypeError, "lr_scale"),  # type: ignore[arg-type]
    "a lazy module": (
        lambda: lp.layers.decay(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), 0.5, 0.1),
        ValueError,
        r"0\.weight.*example_input",
    ),
    "prioritize, lr of 0": (lambda: lp.layers.prioritize(Network(), 0.5, lr=0), ValueError, "lr must be in"),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


# Schedulers keep the ratios

STEPS = 12


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def warm_up(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    after = lp.schedules.polynomial_decay(optimizer, total_steps=STEPS - 3, power=2.0, floor=0.1)
    return lp.schedules.warmup(optimizer, steps=3, after=after)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=rates_of(o), total_steps=STEPS + 1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, [rate / 10 for rate in rates_of(o)], rates_of(o), step_size_up=4, cycle_momentum=False
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 5, 0.1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.ExponentialLR(o, 0.8)], [4]
    ),
    "our warm-up, then ours": warm_up,
    "our polynomial": lambda o: lp.schedules.polynomial_decay(o, total_steps=STEPS + 1, warmup_steps=2),
}
OPTIMIZERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "LAMB": lp.LAMB,
    "wrap": lambda groups: lp.wrap(torch.optim.AdamW(groups), "trust_ratio"),
}


class Training:
    """A network with its first block and its embedding frozen."""

    def __init__(self, optimizer: str, scheduler: str, make: Callable[[nn.Module], Groups] | None = None) -> None:
        torch.manual_seed(0)
        self.model = Network()
        self.model.embed.requires_grad_(False)
        self.model.layers[0].requires_grad_(False)
        groups = (make or (lambda net: lp.layers.decay(net, 0.7, 0.01, torch.arange(4), weight_decay=0.1)))(self.model)
        self.scales = [group["rate_scale"] for group in groups]
        self.optimizer = OPTIMIZERS[optimizer](groups)
        self.scheduler = SCHEDULERS[scheduler](self.optimizer)
        self.rates: list[list[float]] = []

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.rates.append(rates_of(self.optimizer))
            self.optimizer.zero_grad()
            self.model(torch.arange(4)).square().sum().backward()
            self.optimizer.step()
            self.scheduler.step()

    def check(self) -> None:
        assert min(self.scales) < 0.3
        for step, rates in enumerate(self.rates):
            assert rates == pytest.approx([rates[-1] * scale for scale in self.scales], rel=1e-13, abs=0), step
        assert len({rates[-1] for rates in self.rates}) > 2  # and they move


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_ratios_stay_at_every_step_and_after_a_resume(optimizer: str, scheduler: str) -> None:
    whole = Training(optimizer, scheduler)
    whole.train(STEPS)
    whole.check()
    first, second = Training(optimizer, scheduler), Training(optimizer, scheduler)
    first.train(5)
    saved = [first.model.state_dict(), first.optimizer.state_dict(), first.scheduler.state_dict()]
    for part, state in zip((second.model, second.optimizer, second.scheduler), copy.deepcopy(saved), strict=True):
        part.load_state_dict(state)
    assert [group["depth"] for group in second.optimizer.param_groups] == [0, 2, 2, 3, 3, 4, 4]
    second.train(STEPS - 5)
    assert first.rates + second.rates == whole.rates
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


def test_a_scheduler_that_begins_in_the_middle() -> None:
    """With ``last_epoch`` torch asks the groups for ``initial_lr``."""
    whole, late = Training("AdamW", "LambdaLR"), Training("AdamW", "LambdaLR")
    whole.train(8)
    late.scheduler = lr_scheduler.LambdaLR(late.optimizer, lambda t: 1 / (1 + t), last_epoch=4)
    late.train(3)
    for rates, expected in zip(late.rates, whole.rates[5:8], strict=True):
        assert rates == pytest.approx(expected, rel=1e-13)


def test_one_number_makes_all_groups_alike() -> None:
    """What the docstring warns of; if it fails one day, the warning can go."""
    optimizer = torch.optim.AdamW(lp.layers.decay(Network(), 0.5, 0.1))
    lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    assert len(set(rates_of(optimizer))) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_are_those_of_groups_made_by_hand(optimizer: str) -> None:
    def by_hand(model: nn.Module) -> Groups:
        rates = {"first": 0.7**4, "layers.1": 0.7**2, "layers.2": 0.7, "final": 1.0, "head": 1.0}
        return [
            {"params": [(name, p)], "lr": 0.01 * rate, "weight_decay": 0.1 if p.ndim > 1 else 0.0, "rate_scale": rate}
            for start, rate in rates.items()
            for name, p in model.named_parameters()
            if name.startswith(start)
        ]

    ours, theirs = Training(optimizer, "LambdaLR"), Training(optimizer, "LambdaLR", by_hand)
    for training in (ours, theirs):
        training.train(4)
    for (name, a), b in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=name)


# Those who multiply by lr_scale


def cosine(step: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


def test_scripts_that_multiply_by_lr_scale() -> None:
    """The loop of MAE and BEiT: lr of each group is the schedule's, times its lr_scale."""
    groups = lp.layers.decay(Network(), 0.7, 0.01, torch.arange(4), lr_scale=True)
    optimizer = torch.optim.AdamW(groups)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * cosine(step) * group.get("lr_scale", 1.0)
        expected = [0.01 * cosine(step) * 0.7 ** (4 - group["depth"]) for group in groups]
        assert rates_of(optimizer) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("lr_scale", [False, True])
def test_timms_schedulers(lr_scale: bool) -> None:
    pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.AdamW(lp.layers.decay(Network(), 0.7, 0.01, torch.arange(4), lr_scale=lr_scale))
    scheduler = CosineLRScheduler(optimizer, t_initial=STEPS, t_in_epochs=False)
    for step in range(STEPS):
        scheduler.step_update(step)
        expected = [0.01 * cosine(step) * 0.7 ** (4 - group["depth"]) for group in optimizer.param_groups]
        assert rates_of(optimizer) == pytest.approx(expected, rel=1e-12)


# prioritize, for any optimizer


@pytest.mark.parametrize("alpha", [-0.4, 0.3])
def test_prioritize_with_a_rate_trains_as_with_multipliers(alpha: float) -> None:
    weights = []
    for lr in (None, 0.02):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        groups = lp.layers.prioritize(model, alpha, torch.zeros(1, 3), lr=lr)
        if lr is None:
            assert all(set(group) == {"params", "lr_multiplier"} for group in groups)
        else:
            assert all(set(group) == {"params", "lr", "initial_lr", "rate_scale"} for group in groups)
            assert [g["lr"] for g in groups] == [0.02 * lp.layers.multiplier(k, 3, alpha) for k in range(3)]
        optimizer = lp.LAMB(groups, lr=0.02)
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, 5)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
            schedule.step()
        weights.append([param.detach().clone() for param in model.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
