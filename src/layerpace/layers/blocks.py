"""The blocks that a network repeats, found by its structure: never by the names of one family of models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from layerpace.layers.wrappers import named_parameters, unwrapped


def blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost repeated parts of a network: transformer layers, residual blocks.

    A block holds two matrices or more, stands in a row (a ModuleList or a Sequential), and has a sibling of its type.

    - Siblings of which no two have the same shapes are stages (Swin, ConvNeXt) where most hold parts of a type that
      one of them repeats: the blocks are within. What blocks of the same shapes repeat (experts, heads) is theirs.
    - What stands between two blocks of a row is one, too: layers of attention among others.
    - One without such a sibling is a block where it has a ModuleList to itself (a transformer of one layer), or where
      another row has one of its type (one block per stage).
    - Where no row has blocks, the attributes of any module count as one (``self.block1``, ``self.block2``).

    Returns:
        Blocks as they were registered, none of which holds another; [] where nothing repeats.
    """
    return _Search(model, _is_row).blocks() or _Search(model, _may_be_row).blocks()


class _Search:
    """Looks for blocks in what ``is_row`` says holds them."""

    def __init__(self, model: nn.Module, is_row: Callable[[nn.Module], bool]) -> None:
        self.model, self.is_row = model, is_row
        self.kinds = Counter(_kind(part) for module in model.modules() if is_row(module) for part in _parts(module))

    def blocks(self) -> list[nn.Module]:
        return list(dict.fromkeys(self.within(self.model)))  # a module may be registered in two places

    def within(self, module: nn.Module) -> Iterator[nn.Module]:
        if not self.is_row(module):
            for child in module.children():
                yield from self.within(child)
            return
        parts = _parts(module)
        again = _repeated(parts)
        if not again:
            found = [part for part in parts if self.stands_alone(part, module)]
        elif self.are_stages(again):
            found = []
        else:
            found = parts[parts.index(again[0]) : parts.index(again[-1]) + 1]
        for part in parts:
            if part in found:
                yield part
            else:
                yield from self.within(part)

    def stands_alone(self, part: nn.Module, row: nn.Module) -> bool:
        """Whether it is a block without a sibling of its type."""
        kind = _kind(part)
        elsewhere = self.kinds[kind] >= 2 and kind not in (nn.Sequential, nn.ModuleList)
        return (isinstance(row, nn.ModuleList) or elsewhere) and not self.repeats(part)

    def are_stages(self, siblings: Sequence[nn.Module]) -> bool:
        shapes = {frozenset((name, p.shape) for name, p in named_parameters(part)) for part in siblings}
        repeated = set(map(_kind, (block for part in siblings for row in self.rows(part) for block in _repeated(row))))
        staged = [any(_kind(block) in repeated for row in self.rows(part) for block in row) for part in siblings]
        return len(shapes) == len(siblings) and 2 * sum(staged) > len(siblings)

    def repeats(self, part: nn.Module) -> bool:
        """Whether it holds, or is, a row of parts of one type."""
        return any(map(_repeated, self.rows(part)))

    def rows(self, part: nn.Module) -> list[list[nn.Module]]:
        """The parts of each row in it."""
        return [_parts(module) for module in part.modules() if self.is_row(module)]


def _is_row(module: nn.Module) -> bool:
    """Whether children follow one another. A plain ModuleDict holds what lies side by side: tasks, modalities."""
    if isinstance(module, nn.ModuleDict):
        return type(module) is not nn.ModuleDict
    return isinstance(module, (nn.ModuleList, nn.Sequential))


def _may_be_row(module: nn.Module) -> bool:
    return type(module) is not nn.ModuleDict


def _kind(module: nn.Module) -> type[nn.Module]:
    return type(unwrapped(module))


def _parts(row: nn.Module) -> list[nn.Module]:
    """Children that hold two matrices or more; a convolution with its norm is no block."""
    return [child for child in row.children() if sum(p.ndim >= 2 for p in child.parameters()) >= 2]


def _repeated(parts: Sequence[nn.Module]) -> list[nn.Module]:
    """Those with a sibling of their type."""
    kinds = Counter(map(_kind, parts))
    return [part for part in parts if kinds[_kind(part)] >= 2]
