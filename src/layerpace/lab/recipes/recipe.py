"""What a recipe is: one figure or table of a paper, as runs, measurements, tests of its claims, and a picture.

    runs(scale, records) -> requests     what to train, each request as in a sweep; see `records.Records`
    measure(scale, records) -> data      from the finished runs, JSON-like and small: all that the rest needs
    judge(data) -> findings              each claim with our figures, and whether it holds by its stated test
    draw(data) -> Figure                 the picture

`runs` is called again whenever runs have finished, and says all that it wants as far as it can tell then: first a grid
of rates, say, and once the records hold that, the best one with more seeds. It depends on nothing but its arguments.

`judge` and `draw` see the data alone. So what is committed under docs/results can be judged and drawn again without a
single training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .records import Records

T = TypeVar("T")
SCALES = ("smoke", "cpu", "paper")
Request: TypeAlias = dict[str, Any]
Data: TypeAlias = dict[str, Any]
Verdict = Literal["holds", "does not hold", "not decided"]

PAPERS = {
    "percentdelta": "Abu-El-Haija: Proportionate gradient updates with PercentDelta (2017)",
    "rotation": "An experimental study of layer-level training speed and its impact on generalization (2019)",
    "lambc": "Improving layer-wise adaptive rate methods using trust ratio clipping (2020)",
    "overview": "Vadivelu: Gradient-based neural network optimization, an overview (2019)",
    "beyond": "Beyond the papers",
}


@dataclass(frozen=True)
class Scale:
    """How large the runs of a recipe are.

    Attributes:
        name: "smoke": seconds, no data set needed; "cpu": minutes to hours on two cores; "paper": as in the paper.
        device: such as "cuda"; the requests of a recipe take it from here.
    """

    name: Literal["smoke", "cpu", "paper"]
    device: str = "cpu"

    def pick(self, smoke: T, cpu: T, paper: T) -> T:
        """The value of this scale."""
        return {"smoke": smoke, "cpu": cpu, "paper": paper}[self.name]

    def seeds(self, smoke: int, cpu: int, paper: int) -> range:
        return range(self.pick(smoke, cpu, paper))


@dataclass(frozen=True)
class Claim:
    """What a paper says of a figure or table, in our words.

    Attributes:
        key: names it within its recipe.
        where: "figure 2", "table 1", "section 6.1".
        says: one sentence.
        paper: the paper's own figures; "" where it gives none.
        test: what decides, with its threshold, stated before any run: "95% interval of the difference above 0".
    """

    key: str
    where: str
    says: str
    test: str
    paper: str = ""


@dataclass(frozen=True)
class Finding:
    """What came of a claim.

    Attributes:
        ours: our figures, beside the paper's.
        since: date (UTC) of the claim's test, where it was added or changed when there were results already; "": it was
            stated before them.
    """

    claim: Claim
    verdict: Verdict
    ours: str
    since: str = ""


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes:
        name: on the command line, and of its folder under docs/results.
        paper: a key of `PAPERS`.
        shows: the figures and tables that it covers: ("figure 2",).
        title: one line.
        setup: what is run at each scale, and where that differs from the paper, a sentence or two each:
            {"smoke": ..., "cpu": ..., "paper": ...}.
        version: of what `measure` returns; kept data of another version are not judged again.
        runner: what makes a run, as in a sweep's spec.
        score: the number in a run's result that progress shows; None: the validation score, or else the test score.
    """

    name: str
    paper: str
    shows: tuple[str, ...]
    title: str
    claims: tuple[Claim, ...]
    setup: Mapping[str, str]
    runs: Callable[[Scale, Records], Sequence[Request]]
    measure: Callable[[Scale, Records], Data]
    judge: Callable[[Data], Sequence[Finding]]
    draw: Callable[[Data], Figure]
    version: int = 1
    runner: str = "layerpace.lab.single:run"
    score: str | None = None

    def __post_init__(self) -> None:
        if self.paper not in PAPERS:
            raise ValueError(f"recipe {self.name}: unknown paper {self.paper!r}: choose from {', '.join(PAPERS)}")
        missing = [scale for scale in SCALES if scale not in self.setup]
        if missing:
            raise ValueError(f"recipe {self.name}: setup says nothing of {', '.join(missing)}")

    def findings(self, data: Data) -> list[Finding]:
        """A finding for every claim, in their order.

        Raises:
            ValueError: the recipe forgot a claim, or judged one that it does not state.
        """
        found = list(self.judge(data))
        if [finding.claim for finding in found] != list(self.claims):
            raise ValueError(f"recipe {self.name}: its findings are not those of its claims, in their order")
        return found
