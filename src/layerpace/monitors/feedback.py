"""How well the feedback that a layer receives tells the classes apart: its silhouette score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from layerpace.engine.common.extras import how_to_install
from layerpace.engine.common.printable import printable
from layerpace.layers.wrappers import plain_names
from layerpace.monitors.layout import Layout
from layerpace.monitors.transfer import Transfer
from layerpace.monitors.watchers import Fields, Numbers


class Feedback:
    """Gathers the gradient of the loss by each layer's output, in forward and backward passes made within it.

    The score is the mean silhouette coefficient of the examples, by the cosine distance between their gradients and by
    their classes: 1 where those of a class point one way and those of others elsewhere, about 0 where classes do not
    show. Examples without a gradient (whose loss is flat) have no direction and do not count.

    Reference: *An experimental study of layer-level training speed* (2019), figure 7; Rousseeuw (1987).

    Args:
        layout: of the model.
        classes: int [examples], on any device.
        modules: names of modules or of layers, or modules; None: those that hold a tensor with two or more dimensions
            and give one row an example.
        take: gets the numbers at the end.

    Raises:
        ValueError: a name that there is not; at the end, a module by name whose output is not one row an example.
        ImportError: scikit-learn is missing.
    """

    def __init__(
        self,
        layout: Layout,
        classes: Tensor,
        modules: Sequence[str | nn.Module] | None,
        take: Callable[[list[Numbers]], None],
    ) -> None:
        try:
            import sklearn.metrics  # noqa: F401
        except ImportError:
            raise ImportError(f"the silhouette score needs scikit-learn: {how_to_install('lab')}") from None
        self._layout, self._classes, self._take = layout, classes, take
        self._modules, self._all = self._chosen(modules), modules is None
        self._gathered: dict[str, list[Tensor]] = {name: [] for name in self._modules}
        self._handles: list[Any] = []

    def _chosen(self, wanted: Sequence[str | nn.Module] | None) -> dict[str, nn.Module]:
        """Modules by the name of the layer that their score stands under: that of their first tensor."""
        holders: dict[str, tuple[str, nn.Module]] = {}
        plain_name = plain_names(self._layout.model)
        for name, module in self._layout.model.named_modules():
            own = list(module.parameters(recurse=False))
            if own:
                holders[plain_name(name)] = self._layout.names(own[0])[0], module
        if wanted is None:
            large = (pair for pair in holders.values() if any(p.ndim >= 2 for p in pair[1].parameters(recurse=False)))
            return dict(large)
        found: dict[str, nn.Module] = {}
        for key in wanted:
            pairs = [pair for name, pair in holders.items() if key in (name, pair[0]) or key is pair[1]]
            if not pairs:
                raise ValueError(
                    f"{key!r} is no module with parameters of its own; there are "
                    + ", ".join(name or "the model itself" for name in holders)
                )
            found.update(pairs)
        return found

    def __enter__(self) -> Self:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(gradient: Tensor) -> None:
            if gradient.ndim > 0:
                self._gathered[name].append(gradient.detach().reshape(len(gradient), -1).float())

        def after_forward(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            # A copy of the module has the hook, too.
            if module is self._modules[name] and isinstance(first, Tensor) and first.requires_grad:
                # A hook of the tensor, not of the module: what follows may work in place.
                first.register_hook(keep)  # type: ignore[no-untyped-call]

        return after_forward

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is not None:
            return
        scores: dict[str, float] = {}
        for name, rows in self._gathered.items():
            if sum(map(len, rows)) == len(self._classes):
                scores[name] = silhouette(torch.cat(rows), self._classes)
            elif rows and not self._all:
                raise ValueError(
                    f"{printable(name)} got {sum(map(len, rows))} rows of feedback for {len(self._classes)} classes: "
                    "is its output one row an example, and is it called once?"
                )
        values = torch.tensor([[score] for score in scores.values()], dtype=torch.float64, device="cpu")
        if scores:
            self._take([Numbers(tuple(scores), ("silhouette",), Transfer(values), _read)])


def silhouette(feedback: Tensor, classes: Tensor) -> float:
    """The silhouette score of gradients by their cosine distance; waits for the device.

    Args:
        feedback: [examples, entries].
        classes: int [examples].

    Returns:
        In [-1, 1]; nan where fewer than two classes, or as many as examples, have a gradient.

    Raises:
        ValueError: another number of classes than of examples.
    """
    from sklearn.metrics import silhouette_score

    if classes.shape != feedback.shape[:1]:
        raise ValueError(
            f"classes must be one number an example, got shape {tuple(classes.shape)} for {len(feedback)} examples"
        )
    points, labels = feedback.cpu(), classes.cpu()
    told = torch.isfinite(points).all(1) & (points != 0).any(1)
    points, labels = points[told], labels[told]
    if not 1 < len(torch.unique(labels)) < len(labels):
        return float("nan")
    return float(silhouette_score(points.numpy(), labels.numpy(), metric="cosine"))


def _read(fields: Fields) -> dict[str, Tensor]:
    return {"silhouette": fields["silhouette"]}
