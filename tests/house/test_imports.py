"""`import layerpace` needs torch alone, and exports the public names."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import torch

import layerpace as lp
from layerpace import moved

HEAVY = (
    "cyclopts",
    "layerpace.cli",
    "layerpace.lab",
    "layerpace.recipes",
    "lightning",
    "matplotlib",
    "mlflow",
    "nanobind",
    "optuna",
    "pandas",
    "pooch",
    "pyarrow",
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "torch.distributed.tensor",
    "torchvision",
    "transformers",
    "trackio",
    "triton",
    "wandb",
)


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after the code."""
    source = Path(lp.__file__).parents[1]
    listing = "import json; print(json.dumps(list(sys.modules)))"
    program = f"import sys; sys.path.insert(0, {str(source)!r}); {code}; {listing}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_torch_and_nothing_heavier() -> None:
    torch_alone = modules_after("import torch")
    added = modules_after("import torch, layerpace") - torch_alone
    assert "layerpace" in added
    assert not {name for name in added for heavy in HEAVY if name == heavy or name.startswith(heavy + ".")}
    outside = {name.partition(".")[0] for name in added} - {name.partition(".")[0] for name in torch_alone}
    assert outside - set(sys.stdlib_module_names) == {"layerpace"}


def test_import_works_without_numpy_and_the_extras() -> None:
    """A None in sys.modules makes the import of that name fail."""
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in ("numpy", *HEAVY) if not name.startswith("layerpace"))
    train = (
        "import warnings; warnings.simplefilter('ignore'); import torch, layerpace as lp; "
        "m = torch.nn.Linear(3, 2); o = lp.LAMB(m.parameters()); "
        "m(torch.ones(1, 3)).sum().backward(); o.step()"
    )
    assert "layerpace" in modules_after(f"{block}; {train}")


@pytest.mark.parametrize("name", ["LARS", "LAMB", "LAMBC", "PercentDelta", "Layca", "Layerwise"])
def test_public_optimizers_are_optimizers(name: str) -> None:
    cls = getattr(lp, name)
    assert issubclass(cls, torch.optim.Optimizer)
    assert cls.__name__ == name
    assert name in lp.__all__


SIGNATURES = {
    "LARS": {
        "lr": inspect.Parameter.empty,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0,
        "trust_coefficient": 1e-3,
        "trust_clip": None,
        "eps": 1e-8,
    },
    "LAMB": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "trust_clip": None,
        "bias_correction": True,
    },
    "LAMBC": {"lr": 1e-3, "trust_clip": 1.0},
    "PercentDelta": {"lr": 0.03, "momentum": 0.9, "dampening": None, "eps": 1e-8, "weight_decay": 0.0},
    "Layca": {"lr": 3**-3, "direction": "sgd", "momentum": 0.0},
    "Layerwise": dict.fromkeys(("direction", "rule", "lr"), inspect.Parameter.empty),
}
COMMON = {
    "maximize": False,
    "exclude": "auto",
    "segments": None,
    "min_rms": 1e-3,
    "low_precision": "master",
    "nonfinite": "propagate",
    "max_grad_norm": None,
    "backend": "auto",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_have_the_documented_defaults(name: str) -> None:
    cls = getattr(lp, name)
    parameters = inspect.signature(cls).parameters
    assert next(iter(parameters)) == "params"
    for key, default in SIGNATURES[name].items():
        assert parameters[key].default == default, key
    for key in list(parameters)[2 if name != "Layerwise" else 1 :]:
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
        assert parameters[key].kind in kinds, key
    required = {"LARS": {"lr": 1.0}, "Layerwise": {"direction": "sgd", "rule": "identity", "lr": 1.0}}
    cls([torch.zeros(2, requires_grad=True)], **required.get(name, {}), **COMMON)


@pytest.mark.parametrize("key", COMMON)
def test_common_options_have_the_documented_defaults(key: str) -> None:
    parameter = inspect.signature(lp.Layerwise).parameters[key]
    assert parameter.default == COMMON[key]
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


def test_public_functions_and_modules() -> None:
    assert callable(lp.wrap)
    for name in ("linear_decay", "warmup", "polynomial_decay", "step_drops"):
        assert callable(getattr(lp.schedules, name))
        assert name in lp.schedules.__all__
    assert callable(lp.layers.prioritize)
    for name in (
        "SGD",
        "HeavyBall",
        "Nesterov",
        "EMAMomentum",
        "AdaGrad",
        "AdaDelta",
        "RMSProp",
        "Adam",
        "AMSGrad",
        "AdaMax",
        "NAdam",
        "RAdam",
    ):
        assert isinstance(getattr(lp.directions, name)(), lp.directions.Direction)
    for name in ("Identity", "TrustRatio", "PercentDelta", "RelativeL1", "Rotation", "LimitedNorm", "LARCClip"):
        getattr(lp.rules, name)()
    for name in ("Bounds", "RunningBounds", "TighteningBounds", "FallingBound"):
        getattr(lp.rules, name)()


def test_every_name_of_all_exists() -> None:
    for name in lp.__all__:
        assert getattr(lp, name) is not None


def test_messages_name_extras_that_there_are_and_how_to_install_them_in_a_clone() -> None:
    root = Path(lp.__file__).parent
    texts = [path.read_text() for path in root.rglob("*.py") if path != root / "engine/common/extras.py"]
    assert not [text for text in texts if re.search(r"[^`]pip install '?layerpace", text)]
    said = {name for text in texts for name in re.findall(r"how_to_install\('(\w+)'\)", text)}
    metadata = Path(__file__).parents[2] / "pyproject.toml"
    assert said and said <= set(tomllib.loads(metadata.read_text())["project"]["optional-dependencies"])


OLD = (
    "from layerpace.layers import prioritize, ParameterLayers, describe",
    "from layerpace.rules import TrustRatio, Layers, Coefficients, RuleState, BY_NAME",
    "from layerpace.clips import Bounds, clip_rule; from layerpace.clips.moving import RunningBounds",
    "from layerpace.columns import Table, COLUMNS",
    "from layerpace.tensors import Tensors",
    "from layerpace.wrap import Wrapped, wrap",
    "import layerpace.backends.cpu; from layerpace.backends.reference import accumulate",
    "import layerpace.recipes.tasks",
    "from layerpace.recipes.rotation.layers import __doc__",
    "from layerpace.optim.keeping import Values; from layerpace.optim.loading import check_loadable",
    "import layerpace as lp; lp.columns.COLUMNS, lp.clips.Bounds, lp.backends, lp.tensors, lp.recipes",
)


EACH = """
import os, sys, torch
for code in {codes!r}:
    if os.fork() == 0:
        status = 1
        try:
            exec(code, {{}})
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.wait()
    assert ended == 0, code
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for each path")
def test_import_paths_of_the_first_version_work_without_a_warning() -> None:
    """Each in a process that has imported torch alone: the old path may be the first that is asked for."""
    code = EACH.format(codes=OLD)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_old_path_is_the_module_of_the_new_one() -> None:
    for old, new in moved.MOVED.items():
        module = import_module(f"layerpace.{old}")
        assert module is import_module(f"layerpace.{new}")
        assert module.__name__ == f"layerpace.{new}" == module.__spec__.name  # type: ignore[union-attr]
    assert import_module("layerpace.recipes.rotation.curves") is import_module("layerpace.lab.recipes.rotation.curves")
    assert callable(lp.wrap) and lp.wrap is import_module("layerpace.wrap").wrap
    moved.install()
    assert sum(isinstance(finder, moved.Finder) for finder in sys.meta_path) == 1
    with pytest.raises(ModuleNotFoundError, match=r"layerpace\.nothing"):
        import_module("layerpace.nothing")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lp.nothing
