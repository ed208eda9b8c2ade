"""Figure 3 of the LAMBC paper: ImageNet at 64x64, batch 400, clipped at 1 and not clipped.

Its files (some 13 GB) can be had on request only. Below the paper's scale a made data set in the same format takes
their place: it goes the same way, from the files to the figure, and says nothing of the claims.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....monitors.plots.style import new_figure
from ...data import load
from ...imagenet64 import CLASSES, SIDE, TEST, TRAIN
from ...models import MODELS
from ...tasks import Task
from .. import tasks
from ..recipe import Claim, Data, Finding, Recipe, Request, Scale
from ..records import Records
from ..statistics import above, difference, percent
from . import pictures
from .measures import outcome
from .runs import NONE, Setting, finished, planned
from .table import CLIPS, PAIRED, SHARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETTER = Claim(
    key="imagenet-above-none",
    where="figure 3",
    says="On ImageNet at 64x64, too, clipping at 1 gives a higher test accuracy than no clip.",
    test=f"Difference of the mean test accuracies of the last quarter, {PAIRED} above 0; not decided on made images.",
)
OVERFITS = Claim(
    key="imagenet-overfits",
    where="section 4.3",
    says="There the accuracy on training images is much higher than on test images.",
    test="Training less test accuracy with the clip, over seeds, 95% interval above 10 points; not decided on made "
    "images.",
)
MADE = (
    "made files, as ImageNet's are not at hand (they must be fetched by hand; `layerpace train --data imagenet64` "
    "says where): the same steps on ten kinds of made images, which decide nothing"
)


def made_imagenet64(train: int, test: int, kinds: int = 10, width: int = 16, seed: int = 0) -> Task:
    """ResNet-18 on made images in ImageNet's files: each kind a colour and a wave of its own, with noise.

    Args:
        train, test: number of images; the training ones are shared out among the ten files.
        kinds: of the 1000 classes, how many there are.
        width: of the network; not below 16, see `runs.setting`.
        seed: of the images.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    waves = generator.uniform(0.1, 0.6, (kinds, 2))
    colours = generator.uniform(60, 200, (kinds, 3))
    grid = np.arange(SIDE)

    def write(path: Path, count: int) -> None:
        labels = generator.integers(1, kinds + 1, count)
        of = waves[labels - 1]
        pattern = np.sin(of[:, 0, None, None] * grid[None, :, None] + of[:, 1, None, None] * grid[None, None, :])
        images = colours[labels - 1][:, :, None, None] + 40 * pattern[:, None]
        images += generator.normal(0, 40, images.shape)
        np.savez(path, data=images.clip(0, 255).astype(np.uint8).reshape(count, -1), labels=labels)

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "imagenet64"
        folder.mkdir()
        for place, name in enumerate(TRAIN):
            write(folder / f"{name}.npz", len(range(place, train, len(TRAIN))))
        write(folder / f"{TEST}.npz", test)
        data = load("imagenet64", Path(root))
    return Task("made-imagenet64", data, partial(MODELS["resnet-18"], data.input_shape, data.classes, width=width))


def setting(scale: Scale) -> Setting:
    if scale.name == "paper":
        extra = {"dtype": "bf16", "eval_size": 10000, "device": scale.device}
        task = tasks.reference("images", data="imagenet64", model="resnet-18")
        return Setting(task, 1281167, 20, (400,), range(3), 40, extra)
    train, test, epochs, batch, seeds = scale.pick(
        (30, 10, 1, 10, range(1)), (200, 100, 3, 20, range(3)), (0, 0, 0, 0, range(0))
    )
    task = f"{__name__}:{tasks.call('made_imagenet64', {'train': train, 'test': test})}"
    extra = {"eval_size": test, "threads": 1, "device": scale.device}
    return Setting(task, train, epochs, (batch,), seeds, scale.pick(2, 10, 10), extra)


def runs(scale: Scale, records: Records) -> list[Request]:
    chosen = setting(scale)
    return planned(chosen, [(clip, chosen.batches[0]) for clip in CLIPS])


def measure(scale: Scale, records: Records) -> Data:
    """{"scale", "made": whether the images are, "batch", "clips": {clip: outcome}}."""
    chosen = setting(scale)
    batch = chosen.batches[0]
    found = {clip: outcome(finished(chosen, records, clip, batch), chosen, batch, CLASSES) for clip in CLIPS}
    return {"scale": scale.name, "made": scale.name != "paper", "batch": batch, "clips": found}


def judge(data: Data) -> list[Finding]:
    clip, none = (data["clips"][name] for name in CLIPS)
    better = difference(clip["scores"], none["scores"])
    ours = f"{percent(clip['scores'])} against {percent(none['scores'])}: {better.text(100, ' points')}"
    apart = difference(clip["train"], clip["scores"])
    spread = f"{percent(clip['train'])} in training, {percent(clip['scores'])} in test"
    if data["made"]:
        return [Finding(claim, "not decided", MADE) for claim in (BETTER, OVERFITS)]
    return [Finding(BETTER, above(better), ours), Finding(OVERFITS, above(apart, 0.1), spread)]


def draw(data: Data) -> Figure:
    figure = new_figure(11, 4.2)
    axes: Any = figure.subplots(1, 2)
    pictures.curves(axes[0], data["clips"])
    pictures.ratios(axes[1], data["clips"][NONE], [1.0])
    axes[1].set_title("no clip: ratios from smallest to largest", fontsize=10)
    images = "MADE images in the format of ImageNet 64x64" if data["made"] else "ImageNet at 64x64"
    width = " of width 16" if data["made"] else ""
    figure.suptitle(f"ResNet-18{width} on {images}, batch {data['batch']} ({data['scale']} scale)", fontsize=11)
    return figure


FIGURE_3 = Recipe(
    name="lambc-figure-3",
    paper="lambc",
    version=2,
    shows=("figure 3",),
    title="Trust ratio clipped at 1 against no clip on ImageNet at 64x64",
    claims=(BETTER, OVERFITS),
    setup={
        "smoke": "ResNet-18 of width 16 on 30 made images in the format of ImageNet's files, one seed.",
        "cpu": "ImageNet's files are not at hand here. So: ResNet-18 of width 16 on 200 made images in the same "
        "format, batch 20, 3 epochs, 3 seeds, which shows that the recipe runs, and decides nothing.",
        "paper": "ResNet-18, ImageNet at 64x64 (train_data_batch_1 to 10 and val_data under imagenet64), batch 400, 20 "
        f"epochs (the paper does not say how many), bf16, 3 seeds. {SHARE}",
    },
    runs=runs,
    measure=measure,
    judge=judge,
    draw=draw,
)
