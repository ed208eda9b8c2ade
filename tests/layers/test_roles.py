"""Roles of the tensors of many families of networks, and param groups by role."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu

import layerpace as lp

WORDS = 20


def tokens(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape) % WORDS


def table(found: lp.layers.Roles, vectors: bool = False) -> dict[str, str]:
    """{name: role}, with "?" for a guess; vectors are left out unless asked for."""
    return {n: r.role + "?" * (not r.sure) for n, r in found.items() if vectors or r.role != "vector"}


# Families of transformers: configurations alone, no download


def transformer(name: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    common = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2}
    kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
        "gpt2": ("GPT2LMHeadModel", "GPT2Config",
                 {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2,
                  "bos_token_id": None, "eos_token_id": None}),
        "llama": ("LlamaForCausalLM", "LlamaConfig", {**common, **heads, "num_key_value_heads": 1}),
        "mixtral": ("MixtralForCausalLM", "MixtralConfig",
                    {**common, **heads, "num_key_value_heads": 1, "num_local_experts": 4, "num_experts_per_tok": 2}),
        "bert": ("BertForMaskedLM", "BertConfig", {**common, **heads}),
        "t5": ("T5ForConditionalGeneration", "T5Config",
               {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2,
                "decoder_start_token_id": 0}),
        "vit": ("ViTForImageClassification", "ViTConfig",
                {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, **heads, "image_size": 8,
                 "patch_size": 4, "num_labels": 3}),
    }  # fmt: skip
    model, config, own = kinds[name]
    torch.manual_seed(0)
    made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**{**own, **options}))
    return made


EXAMPLES: dict[str, Callable[[], dict[str, Tensor]]] = {
    **dict.fromkeys(("gpt2", "llama", "mixtral", "bert"), lambda: {"input_ids": tokens(1, 9)}),
    "t5": lambda: {"input_ids": tokens(1, 5), "decoder_input_ids": tokens(1, 4)},
    "vit": lambda: {"pixel_values": torch.rand(1, 3, 8, 8)},
}
# (pattern of words in the name, role): what is listed under no word is hidden; nothing is in doubt.
EXPECTED: dict[str, dict[str, set[str]]] = {
    "gpt2": {"embedding": {"transformer.wte.weight", "transformer.wpe.weight"}, "head": set(), "input": set()},
    "llama": {"embedding": {"model.embed_tokens.weight"}, "head": {"lm_head.weight"}, "input": set()},
    "mixtral": {
        "embedding": {"model.embed_tokens.weight"},
        "head": {"lm_head.weight"},
        "expert": {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"},
    },
    "bert": {
        "embedding": {f"bert.embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")},
        "head": set(),
        "input": set(),
    },
    "t5": {
        "embedding": {
            "shared.weight",
            *(
                f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
                for part in ("encoder", "decoder")
            ),
        },
        "head": set(),
        "input": set(),
    },
    "vit": {
        "embedding": {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"},
        "input": {"vit.embeddings.patch_embeddings.projection.weight"},
        "head": {"classifier.weight"},
    },
}
HIDDEN = {"gpt2": 4, "llama": 7, "mixtral": 5, "bert": 7, "t5": 16, "vit": 6}


@pytest.mark.parametrize("name", EXPECTED)
def test_transformers(name: str) -> None:
    model = transformer(name)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    found = lp.layers.roles(model, EXAMPLES[name]())
    assert list(found) == [n for n, _ in model.named_parameters()] and not found.doubtful
    for role, names in EXPECTED[name].items():
        if name == "mixtral" and role == "expert" and not any("experts.gate_up_proj" in n for n in found):
            pytest.skip("this version of transformers keeps experts as modules")
        assert {entry.name for entry in found.of(role)} == names, role
    assert len(found.of("hidden")) == HIDDEN[name]
    assert {e.name for e in found.of("vector")} == {n for n, p in model.named_parameters() if p.ndim <= 1}
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_tied_head_is_the_embedding_and_an_untied_one_is_not() -> None:
    tied = lp.layers.roles(transformer("gpt2"), EXAMPLES["gpt2"]())
    assert tied["transformer.wte.weight"].also == ("lm_head.weight",)
    assert "shared with the head" in tied["transformer.wte.weight"].because
    apart = lp.layers.roles(transformer("gpt2", tie_word_embeddings=False), EXAMPLES["gpt2"]())
    assert apart["lm_head.weight"].role == "head" and apart["transformer.wte.weight"].role == "embedding"
    without = lp.layers.roles(transformer("gpt2"))  # no example: the model itself says what its output embedding is
    assert table(without) == table(tied) and not without.doubtful


def test_experts_are_segments() -> None:
    found = lp.layers.roles(transformer("mixtral"), EXAMPLES["mixtral"]())
    if not found.of("expert"):
        pytest.skip("this version of transformers keeps experts as modules")
    assert {entry.experts for entry in found.of("expert")} == {4}
    groups = lp.layers.by_role(
        transformer("mixtral"), {"expert": {"lr": 0.1}, "rest": {"lr": 0.2}}, example_input=EXAMPLES["mixtral"]()
    )
    assert set(groups[0]["segments"].values()) == {4}
    optimizer = lp.Layca(groups)
    assert optimizer.layers[groups[0]["params"][0][1]].count == 4


# By hand


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return relu(x + self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)  # registered first, used last
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(Residual(4), Residual(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.gamma * self.down(gelu(self.up(y))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 2, 2), ConvNeXtBlock(4)
        self.downsample, self.head = nn.Conv2d(4, 6, 2, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.downsample(self.block(self.stem(x))).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(relu(self.middle(relu(self.down(x)))))
        return self.out(torch.cat([x, y], 1))


class Recurrent(nn.Module):
    def __init__(self, embeds: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 4) if embeds else None
        self.rnn = nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x if self.embedding is None else self.embedding(x))[0][:, -1])


class Adapted(nn.Module):
    """A linear layer with an adapter of LoRA, in the shape that peft gives it."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 4).requires_grad_(False)
        self.layer, self.head = Adapted(nn.Linear(4, 4)), nn.Linear(4, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(relu(self.layer(self.words(x))))


class Functional(nn.Module):
    """Weights that no module of a known type holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.rand(6, 4)), nn.Parameter(torch.rand(6, 6))
        self.experts, self.last = nn.Parameter(torch.rand(3, 6, 6)), nn.Parameter(torch.rand(2, 6))
        self.place, self.gate = nn.Parameter(torch.rand(1, 6)), nn.Parameter(torch.rand(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = linear(relu(linear(x, self.first)) + self.place, self.second) * self.gate
        return linear(torch.einsum("bi,eoi->beo", x, self.experts).mean(1), self.last)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.words(x)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))


HAND: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, str]]] = {
    "MLP": (mlp, lambda: torch.rand(1, 3), {"0.weight": "input", "2.weight": "hidden", "4.weight": "head"}),
    "one layer": (lambda: nn.Linear(3, 2), lambda: torch.rand(1, 3), {"weight": "head"}),
    "ResNet": (ResNet, lambda: torch.rand(1, 3, 8, 8), {
        "fc.weight": "head", "stem.weight": "input",
        **{f"blocks.{k}.conv{n}.weight": "hidden" for k in (0, 1) for n in (1, 2)},
    }),
    "ConvNeXt": (ConvNeXt, lambda: torch.rand(1, 3, 8, 8), {
        "stem.weight": "input", "block.depthwise.weight": "hidden", "block.up.weight": "hidden",
        "block.down.weight": "hidden", "downsample.weight": "hidden", "head.weight": "head",
    }),
    "U-Net": (UNet, lambda: torch.rand(1, 1, 8, 8), {
        "down.weight": "input", "middle.weight": "hidden", "up.weight": "hidden", "out.weight": "head",
    }),
    "LSTM": (lambda: Recurrent(False), lambda: torch.rand(1, 3, 4), {
        "rnn.weight_ih_l0": "input", "rnn.weight_hh_l0": "hidden", "rnn.weight_ih_l1": "hidden",
        "rnn.weight_hh_l1": "hidden", "out.weight": "head",
    }),
    "LSTM of words": (lambda: Recurrent(True), lambda: tokens(1, 3), {
        "embedding.weight": "embedding", "rnn.weight_ih_l0": "hidden", "rnn.weight_hh_l0": "hidden",
        "rnn.weight_ih_l1": "hidden", "rnn.weight_hh_l1": "hidden", "out.weight": "head",
    }),
    "LoRA": (Lora, lambda: tokens(1, 3), {
        "words.weight": "embedding", "layer.base_layer.weight": "hidden", "layer.lora_A.default.weight": "hidden",
        "layer.lora_B.default.weight": "hidden", "head.weight": "head",
    }),
    "functional": (Functional, lambda: torch.rand(2, 4), {
        "first": "input", "second": "hidden", "experts": "expert", "last": "head", "place": "embedding",
    }),
    "attention": (Attention, lambda: tokens(1, 3), {
        "words.weight": "embedding", "layer.self_attn.in_proj_weight": "hidden",
        "layer.self_attn.out_proj.weight": "hidden", "layer.linear1.weight": "hidden",
        "layer.linear2.weight": "hidden", "head.weight": "head",
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND)
def test_networks_by_hand(name: str) -> None:
    make, example, expected = HAND[name]
    found = lp.layers.roles(make(), example())
    assert table(found) == expected
    assert not found.doubtful and all(entry.because for entry in found.values())


def test_what_scales_entry_by_entry_is_a_vector_whatever_its_dimensions() -> None:
    assert lp.layers.roles(Functional(), torch.rand(2, 4))["gate"].role == "vector"
    assert lp.layers.roles(ConvNeXt(), torch.rand(1, 3, 8, 8))["block.gamma"].role == "vector"
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm((4, 2, 2)), nn.Conv2d(4, 2, 1))
    assert lp.layers.roles(norm, torch.rand(1, 3, 2, 2))["1.weight"].role == "vector"
    assert lp.layers.roles(norm)["1.weight"].role == "vector"


def test_several_models_are_one_optimizers() -> None:
    """A GAN."""
    makers, noise, pictures = (mlp, mlp), torch.rand(1, 3), torch.rand(1, 3)
    listed = lp.layers.roles([make() for make in makers], [noise, pictures])
    assert table(listed) == {f"{k}.{n}": r for k in (0, 1) for n, r in HAND["MLP"][2].items()}
    named = lp.layers.roles({"generator": mlp(), "critic": mlp()}, {"generator": noise, "critic": pictures})
    assert named["critic.4.weight"].role == "head"
    groups = lp.layers.by_role({"g": mlp(), "c": mlp()}, {"rest": {}}, {"g": noise, "c": pictures})
    assert groups[0]["params"][0][0] == "g.0.weight"
    with pytest.raises(ValueError, match="one entry per model, 2, got 1"):
        lp.layers.roles([mlp(), mlp()], [noise])
    with pytest.raises(TypeError, match=r"need a torch.nn.Module, or several, got str for 1"):
        lp.layers.roles([mlp(), "mlp"])  # type: ignore[list-item]


# What is not certain


def test_without_an_example_the_ends_are_guesses() -> None:
    assert table(lp.layers.roles(mlp())) == {"0.weight": "input?", "2.weight": "hidden", "4.weight": "head?"}
    found = lp.layers.roles(ResNet())
    assert found["fc.weight"].role == "input" and not found["fc.weight"].sure  # wrong, and said to be a guess
    assert {entry.name for entry in found.doubtful} == {"fc.weight", "blocks.1.conv2.weight"}
    assert "input?" in str(found) and "registered first" in str(found)


def test_a_layer_that_the_example_does_not_use_is_a_guess() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x))

    found = lp.layers.roles(Unused(), torch.rand(1, 3))
    assert table(found) == {"a.weight": "input", "b.weight": "hidden?", "c.weight": "head"}


def test_guesses_are_warned_of_with_what_to_pass() -> None:
    with pytest.warns(
        UserWarning, match=r"'0.weight' \(input: registered first\).*overrides=\{'0.weight': 'input'"
    ) as told:
        lp.layers.by_role(mlp(), {"rest": {}})
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lp.layers.by_role(mlp(), {"rest": {}}, torch.rand(1, 3))
        lp.layers.by_role(mlp(), {"rest": {}}, overrides={"0.weight": "input", "4.*t": "head"})


def test_overrides_settle_a_role() -> None:
    found = lp.layers.roles(mlp(), overrides={"0.*": "embedding", lambda n, p: p.ndim == 2: "hidden"})
    assert table(found, vectors=True) == {
        "0.weight": "embedding", "0.bias": "embedding", "2.weight": "hidden", "2.bias": "vector", "4.weight": "hidden",
        "4.bias": "vector",
    }  # fmt: skip
    assert found["0.weight"].because == "override '0.*'" and not found.doubtful
    with pytest.raises(ValueError, match=r"'9.*' matches no parameter; the names are '0.weight'"):
        lp.layers.roles(mlp(), overrides={"9.*": "head"})
    with pytest.raises(ValueError, match=r"role must be one of .*'vector', got 'matrix'"):
        lp.layers.roles(mlp(), overrides={"0.*": "matrix"})


# Wrapped, on meta, lazy


def wrapped(kind: str, model: nn.Module) -> nn.Module:
    if kind == "compiled":
        return torch.compile(model)  # type: ignore[return-value]
    if kind == "parallel":
        return nn.DataParallel(model)
    if kind == "averaged":
        return torch.optim.swa_utils.AveragedModel(model)
    return torch.optim.swa_utils.AveragedModel(nn.DataParallel(model))


@pytest.mark.parametrize("kind", ["compiled", "parallel", "averaged", "both"])
@pytest.mark.parametrize("name", ["MLP", "LoRA", "ConvNeXt"])
def test_wrapped_models_have_the_same_roles(name: str, kind: str) -> None:
    make, example, expected = HAND[name]
    model = wrapped(kind, make())
    assert table(lp.layers.roles(model, example())) == expected
    assert table(lp.layers.roles(model)) == table(lp.layers.roles(make()))


def test_models_on_meta_have_the_same_roles() -> None:
    for name in ("MLP", "ResNet", "U-Net", "attention", "functional"):
        make, example, expected = HAND[name]
        with torch.device("meta"):
            model = make()
        assert table(lp.layers.roles(model, example().to("meta"))) == expected
        assert all(p.is_meta for p in model.parameters())


def test_lazy_models_are_guesses_until_they_have_shapes() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    found = lp.layers.roles(model)
    assert table(found, vectors=True) == {
        "0.weight": "hidden?",
        "0.bias": "vector",
        "2.weight": "hidden?",
        "2.bias": "vector",
    }
    assert "lazy" in str(found)
    assert table(lp.layers.roles(model, torch.rand(1, 3))) == {"0.weight": "input", "2.weight": "head"}


def test_the_model_is_as_it_was() -> None:
    model = Lora().train()
    model.layer.eval()
    before = copy.deepcopy(model.state_dict())
    lp.layers.roles(model, tokens(1, 3))
    assert model.training and not model.layer.training and not model.layer.base_layer.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


# Groups


def test_groups_have_the_parameters_and_the_methods_of_their_roles() -> None:
    methods = {
        "hidden": {"direction": "sgd", "rule": "rotation", "lr": 0.05},
        "embedding": {"direction": "adam", "lr": 0.01},
        "rest": {"lr": 0.001, "weight_decay": 0.1},
    }
    model = Attention()
    groups = lp.layers.by_role(model, methods, tokens(1, 3))
    assert [group["role"] for group in groups] == ["hidden", "embedding", "rest"]
    assert [name for name, _ in groups[1]["params"]] == ["words.weight"]
    assert {n for g in groups for n, _ in g["params"]} == {n for n, _ in model.named_parameters()}
    optimizer = lp.Layerwise(groups, direction="adam", rule="identity", lr=1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.01, 0.001]
    model(tokens(2, 3)).sum().backward()
    before = model.layer.linear1.weight.detach().clone()
    optimizer.step()
    now = model.layer.linear1.weight.detach()
    assert float(now.norm()) == pytest.approx(float(before.norm()), rel=1e-5)
    cosine = float((now * before).sum() / now.norm() / before.norm())
    assert cosine == pytest.approx(1 / (1 + 0.05**2) ** 0.5, abs=1e-6)


def test_frozen_parameters_are_in_no_group() -> None:
    groups = lp.layers.by_role(Lora(), {"hidden": {"lr": 0.1}}, tokens(1, 3))
    assert [name for name, _ in groups[0]["params"]] == ["layer.lora_A.default.weight", "layer.lora_B.default.weight"]


def test_a_role_without_a_method_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"none for some roles \(input: 0.weight; vector: 0.bias, 2.bias, 4.bias; head"
    ):
        lp.layers.by_role(mlp(), {"hidden": {}}, torch.rand(1, 3))
    with pytest.raises(ValueError, match=r"role must be one of .*'rest', got 'body'"):
        lp.layers.by_role(mlp(), {"body": {}}, torch.rand(1, 3))
    with pytest.raises(ValueError, match="the module Tanh has no parameters"):
        lp.layers.roles(nn.Tanh())
    with pytest.raises(ValueError, match="role must be one of"):
        lp.layers.roles(mlp()).of("rest")


def test_the_page_has_the_tables_of_the_families() -> None:
    from tests.layers.role_tables import MARK, PAGE, tables

    if not lp.layers.roles(transformer("mixtral"), EXAMPLES["mixtral"]()).of("expert"):
        pytest.skip("this version of transformers keeps experts as modules")
    assert PAGE.read_text().partition(MARK)[2].strip() == tables().strip(), "python -m tests.layers.role_tables"
