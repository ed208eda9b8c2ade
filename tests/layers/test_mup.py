"""muP: rates by width are those of the paper's tables, and steps have the same size at every width."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import layerpace as lp

os.environ["HF_HUB_OFFLINE"] = "1"

Groups = list[dict[str, Any]]


def by_name(groups: Groups, key: str = "rate_scale") -> dict[str, Any]:
    found = {name: group[key] for group in groups for name, _ in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


class Network(nn.Module):
    """Each kind of tensor; ``width`` is the only size that varies."""

    def __init__(self, width: int, tied: bool = False, readout: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 5, width))
        self.stem = nn.Conv2d(3, width, 2)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, add_bias_kv=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.depthwise = nn.Conv1d(width, width, 3, groups=width)
        self.upsample = nn.ConvTranspose1d(width, 4, 2)
        self.recurrent = nn.GRU(6, width)
        self.score = nn.Linear(width, 1)
        self.fixed = nn.Linear(5, 7)
        self.head = readout(width, 11)
        if tied:
            self.head.weight = self.embed.weight


HIDDEN = {
    "attention.in_proj_weight", "attention.out_proj.weight", "up.weight", "down.weight", "conv.weight",
    "recurrent.weight_hh_l0",
}  # fmt: skip
HEADS = {"upsample.weight", "score.weight", "head.weight"}
FIXED = {"fixed.weight", "fixed.bias", "score.bias", "head.bias", "upsample.bias"}


def widths(tied: bool = False) -> tuple[nn.Module, nn.Module]:
    with torch.device("meta"):
        return Network(32, tied), Network(8, tied)


@pytest.mark.parametrize("shapes", [False, True], ids=["a model", "its shapes"])
def test_rates_are_those_of_table_3(shapes: bool) -> None:
    model, base = widths()
    narrow = {name: p.shape for name, p in base.named_parameters()} if shapes else base
    adam = by_name(lp.layers.mup(model, narrow, 1.0))
    sgd = by_name(lp.layers.mup(model, narrow, 1.0, optimizer="sgd"))
    assert set(adam) == set(sgd) == {name for name, _ in model.named_parameters()}
    for name in adam:
        assert adam[name] == (0.25 if name in HIDDEN | HEADS else 1.0), name
        assert sgd[name] == (1.0 if name in HIDDEN | FIXED else 0.25 if name in HEADS else 4.0), name


def test_a_divided_head_has_the_rates_of_table_8() -> None:
    model, base = widths()
    for optimizer, scale in (("adam", 1.0), ("sgd", 4.0)):
        without = by_name(lp.layers.mup(model, base, 1.0, optimizer=optimizer))
        divided = by_name(lp.layers.mup(model, base, 1.0, optimizer=optimizer, readout=["head.*", "score.weight"]))
        assert divided == without | {"head.weight": scale, "score.weight": scale}


def test_a_tied_head_is_an_embedding_if_the_model_divides() -> None:
    model, base = widths(tied=True)
    with pytest.raises(ValueError, match=r"embed\.weight.*embedding and head in one.*readout"):
        lp.layers.mup(model, base, 1.0)
    for name in ("head.weight", "embed.weight"):
        assert by_name(lp.layers.mup(model, base, 1.0, readout=name))["embed.weight"] == 1.0
        assert by_name(lp.layers.mup(model, base, 1.0, readout=name, optimizer="sgd"))["embed.weight"] == 4.0
    assert set(by_name(lp.layers.mup(base, base, 1.0)).values()) == {1.0}  # of the same width they agree


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_against_the_authors_package(optimizer: str) -> None:
    mup = pytest.importorskip("mup", reason="mup is not installed")

    def make(width: int, readout: Callable[[int, int], nn.Module]) -> nn.Module:
        model = Network(width, readout=readout)
        for name in ("token", "positions", "upsample", "recurrent", "score"):  # which it takes for something else
            delattr(model, name)
        return model

    theirs = make(32, mup.MuReadout)
    mup.set_base_shapes(theirs, make(8, mup.MuReadout), delta=make(16, mup.MuReadout))
    names = {param: name for name, param in theirs.named_parameters()}
    method = {"adam": mup.MuAdamW, "sgd": mup.MuSGD}[optimizer](theirs.parameters(), lr=0.5, weight_decay=0.25)
    expected = {
        names[param]: (group["lr"], group["weight_decay"]) for group in method.param_groups for param in group["params"]
    }
    ours = lp.layers.mup(
        make(32, nn.Linear),
        make(8, nn.Linear),
        0.5,
        optimizer=optimizer,
        readout="head.weight",
        weight_decay=0.25,
        no_decay=None,
    )
    rates, decays = by_name(ours, "lr"), by_name(ours, "weight_decay")
    assert {name: (rates[name], decays[name]) for name in rates} == expected


def test_gpt2_of_transformers() -> None:
    """Its Conv1D has the fan-in first; the tied head is divided."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    def make(width: int, inner: int) -> nn.Module:
        config = transformers.GPT2Config(
            vocab_size=9,
            n_positions=8,
            n_embd=width,
            n_inner=inner,
            n_layer=1,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
        return transformers.GPT2LMHeadModel(config)  # type: ignore[no-any-return]

    found = by_name(lp.layers.mup(make(16, 24), make(8, 8), 1.0, readout="lm_head.weight"))
    for name, scale in found.items():
        inner = name.endswith("mlp.c_proj.weight")
        assert scale == (1 / 3 if inner else 0.5 if ".c_" in name and name.endswith("weight") else 1.0), name


def test_the_dimension_of_fan_in_can_be_said() -> None:
    def make(width: int) -> nn.Module:
        model = nn.Module()
        model.projection = nn.Parameter(torch.zeros(width, 7))  # x @ projection
        model.positions = nn.Parameter(torch.zeros(9, width))
        model.experts = nn.Parameter(torch.zeros(3, width, 2 * width))  # grow alike: either is the fan-in
        return model

    with pytest.raises(ValueError, match=r"'projection' of a Module has shape \(16, 7\).*fan_in=\{'projection'"):
        lp.layers.mup(make(16), make(4), 1.0)
    told = {"proj*": 0, "positions": None}
    adam = by_name(lp.layers.mup(make(16), make(4), 1.0, fan_in=told))
    assert adam == {"projection": 0.25, "positions": 1.0, "experts": 0.25}
    sgd = by_name(lp.layers.mup(make(16), make(4), 1.0, fan_in=told, optimizer="sgd"))
    assert sgd == {"projection": 0.25, "positions": 4.0, "experts": 1.0}
    model = make(16)
    model.projection.requires_grad_(False)  # nobody needs to know
    assert set(by_name(lp.layers.mup(model, make(4), 1.0, fan_in={"positions": None}))) == {"positions", "experts"}


def test_groups_have_rates_names_and_weight_decay() -> None:
    model, base = widths()
    groups = lp.layers.mup(model, base, 0.02, weight_decay=0.1)
    for group in groups:
        assert group["lr"] == group["initial_lr"] == 0.02 * group["rate_scale"]
        for _, param in group["params"]:
            product = group["lr"] * group["weight_decay"]
            assert product == (0.0 if param.ndim <= 1 else pytest.approx(0.02 * 0.1))
    for group in lp.layers.mup(model, base, 0.02, lr_scale=True):
        assert group["lr"] == 0.02 and group["lr_scale"] in (1.0, 0.25)
    assert all("weight_decay" not in group for group in lp.layers.mup(model, base, 0.02))


def test_schedulers_keep_the_ratios() -> None:
    model = nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 16))
    base = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    optimizer = torch.optim.Adam(lp.layers.mup(model, base, 0.02))
    rates = [group["lr"] for group in optimizer.param_groups]
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=9)
    for _ in range(8):
        fast, slow = (group["lr"] for group in optimizer.param_groups)
        assert slow == pytest.approx(fast / 4, rel=1e-13)
        optimizer.step()
        scheduler.step()


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "another depth": (
        lambda: lp.layers.mup(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)), nn.Sequential(nn.Linear(2, 2)), 1.0),
        ValueError,
        r"'1\.weight', '1\.bias' stand in the model alone",
    ),
    "a name too many in base": (
        lambda: lp.layers.mup(nn.Linear(2, 4), {"weight": (2, 2), "bias": (2,), "mean": (2,)}, 1.0),
        ValueError,
        "'mean' stand in the base alone",
    ),
    "other dimensions": (
        lambda: lp.layers.mup(nn.Linear(2, 4), {"weight": (2, 2, 1), "bias": (2,)}, 1.0),
        ValueError,
        r"'weight' has shape \(4, 2\), and \(2, 2, 1\) in base",
    ),
    "no base": (lambda: lp.layers.mup(nn.Linear(2, 4), 64, 1.0), TypeError, "base must be a module.*got int"),  # type: ignore[arg-type]
    "an unknown kind": (
        lambda: lp.layers.mup(nn.Linear(2, 4), nn.Linear(2, 2), 1.0, optimizer="lamb"),
        ValueError,
        "optimizer must be one of 'adam', 'sgd', got 'lamb'",
    ),
    "a readout that is none": (
        lambda: lp.layers.mup(nn.Linear(2, 4), nn.Linear(2, 2), 1.0, readout="head.*"),
        ValueError,
        r"readout='head\.\*' matches no parameter",
    ),
    "a fan-in of nothing": (
        lambda: lp.layers.mup(nn.Linear(2, 4), nn.Linear(2, 2), 1.0, fan_in={"head": 0}),
        ValueError,
        "fan_in='head' matches no parameter",
    ),
    "a dimension that is not there": (
        lambda: lp.layers.mup(nn.Linear(2, 4), nn.Linear(2, 2), 1.0, fan_in={"weight": 2}),
        ValueError,
        r"fan_in\['weight'\] must be below 2",
    ),
    "lr of 0": (lambda: lp.layers.mup(nn.Linear(2, 4), nn.Linear(2, 2), 0.0), ValueError, "lr must be in"),
    "all frozen": (
        lambda: lp.layers.mup(nn.Linear(2, 4).requires_grad_(False), nn.Linear(2, 2), 1.0),
        ValueError,
        "frozen",
    ),
    "no parameters": (lambda: lp.layers.mup(nn.ReLU(), nn.ReLU(), 1.0), ValueError, "no parameters"),
    "a lazy module": (
        lambda: lp.layers.mup(nn.LazyLinear(2), {"weight": (2, 2), "bias": (2,)}, 1.0),
        ValueError,
        "lazy",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


# The law: a few steps change features and outputs as much at every width


def changes(width: int, optimizer: str, mup: bool) -> tuple[float, float]:
    """How far three steps move the hidden features and the outputs, per entry."""

    def make(width: int) -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))
        nn.init.normal_(model[2].weight, std=width**-0.5)  # type: ignore[arg-type]
        nn.init.zeros_(model[4].weight)  # type: ignore[arg-type]
        return model

    model, x = make(width), torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    target = torch.randn(16, 4, generator=torch.Generator().manual_seed(2))
    lr = {"adam": 3e-3, "sgd": 0.1}[optimizer]
    groups: Any = lp.layers.mup(model, make(32), lr, optimizer=optimizer) if mup else model.parameters()
    method = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](groups, lr=lr)

    def outputs() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = model[:3](x)
            return features, model[3:](features)

    before = outputs()
    for _ in range(3):
        method.zero_grad()
        (model(x) - target).square().mean().backward()
        method.step()
    return tuple(float((new - old).square().mean().sqrt()) for new, old in zip(outputs(), before, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_steps_have_the_same_size_at_every_width(optimizer: str) -> None:
    narrow, wide = changes(32, optimizer, True), changes(1024, optimizer, True)
    assert all(0.5 < large / small < 2 for large, small in zip(wide, narrow, strict=True))
    plain = changes(1024, optimizer, False)  # and without muP they do not
    assert max(large / small for large, small in zip(plain, narrow, strict=True)) > 4
