"""The three settings of the PercentDelta paper's section 6.1, as tasks with made data.

    embeddings()            embeddings of entities go into a shared network
    attention()             soft attention over a bag of words
    factorisation()         ratings = WU WM + bU + bM + b

In each some parameters hear from every example and others from few, which is what the section is about. Weights start
away from zero, biases too: PercentDelta and LARS move a tensor by a share of its size. The same arguments make the
same data.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data import Dataset, load, to_stderr
from ...errors import LabError, UsageError
from ...ratings import counts, made_ratings
from ...tasks import Task
from ..tasks import call

HERE = "layerpace.recipes.percentdelta.made_tasks"
BIAS = 0.1  # what biases start at, as the paper's network has it
WIDTH = 64


def reference(function: str, **arguments: object) -> str:
    """The reference of a task of this module."""
    return f"{HERE}:{call(function, arguments)}"


def zipf(count: int, size: tuple[int, ...], generator: torch.Generator, tail: float = 0.8) -> Tensor:
    """Numbers below ``count``; k is drawn as often as (k + 1)^-tail."""
    weights = torch.arange(1, count + 1, device="cpu").float() ** -tail
    drawn = torch.multinomial(weights, size[0] * size[1], replacement=True, generator=generator)
    return drawn.view(size)


def linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.constant_(layer.bias, BIAS)
    return layer


def embedding(count: int, dim: int) -> nn.Embedding:
    layer = nn.Embedding(count, dim)
    nn.init.normal_(layer.weight, std=0.3)
    return layer


class SharedNetwork(nn.Module):
    """Embeddings of two entities, side by side, into two hidden layers."""

    def __init__(self, entities: int, dim: int, classes: int) -> None:
        super().__init__()
        self.embedding = embedding(entities, dim)
        self.fc1, self.fc2, self.fc3 = linear(2 * dim, WIDTH), linear(WIDTH, WIDTH), linear(WIDTH, classes)

    def forward(self, pairs: Tensor) -> Tensor:
        x = self.embedding(pairs).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))  # type: ignore[no-any-return]


def embeddings(
    entities: int = 1000, train: int = 30_000, test: int = 4000, dim: int = 8, classes: int = 6, seed: int = 0
) -> Task:
    """Which relation do two entities have?

    Every entity has a hidden vector, and the relation is what a random network with one hidden layer says of two
    of them; one label in twenty is random. Some entities are in many pairs and most in few (Zipf). The vectors are
    not known to the model: it learns embeddings, and the network, from the pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(entities, dim, generator=generator, device="cpu")
    first = torch.randn(2 * dim, 24, generator=generator, device="cpu") / (2 * dim) ** 0.5
    second = torch.randn(24, classes, generator=generator, device="cpu")
    pairs = zipf(entities, (train + test, 2), generator)
    relations = (torch.tanh(2 * hidden[pairs].flatten(1) @ first) @ second).argmax(1)
    noise = torch.rand(train + test, generator=generator, device="cpu") < 0.05
    anything = torch.randint(classes, (train + test,), generator=generator, device="cpu")
    relations = torch.where(noise, anything, relations)
    data = Dataset(pairs[:train], relations[:train], pairs[train:], relations[train:], classes)
    return Task(name="shared-network", data=data, model=partial(SharedNetwork, entities, 2 * dim, classes), threads=1)


class WordAttention(nn.Module):
    """x = sum_i alpha_i x[i] over the words of a document; alpha is the softmax of a score that a network gives a word.

    Args:
        vectors: of the words, [words, dim]; they are given, and not trained.
        attend: off: all words weigh alike.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, classes: int, attend: bool) -> None:
        super().__init__()
        dim = vectors.shape[1]
        self.attend = attend
        self.register_buffer("vectors", vectors.clone())
        if attend:
            self.attention1 = linear(dim, 32)
            self.attention2 = nn.Linear(32, 1, bias=False)  # a softmax does not see a bias
            nn.init.kaiming_normal_(self.attention2.weight)
        self.fc1, self.fc2, self.fc3 = linear(dim, WIDTH), linear(WIDTH, WIDTH), linear(WIDTH, classes)

    def forward(self, documents: Tensor) -> Tensor:
        x = self.vectors[documents]  # [N, words, dim]
        if self.attend:
            x = self.attention2(torch.tanh(self.attention1(x))).softmax(1) * x * x.shape[1]
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.mean(1))))))  # type: ignore[no-any-return]


def attention(
    train: int = 8000, test: int = 4000, length: int = 24, classes: int = 12, attend: bool = True, seed: int = 0
) -> Task:
    """What is a document about?

    A word's vector says which topic it names, if any, and whether it is a telling one. One to three words of a
    document are telling, and name its topic; six name any topic, and do not tell; the rest are noise. Only the weights
    of the words can tell these apart: a plain mean has more of the wrong topics than of the right one.

    Args:
        train, test: documents.
        length: words of a document.
        classes: topics.
        attend: off: all words weigh alike, for comparison.
    """
    a_topic, noise, topic_dim, telling_dim = 300, 2000, 12, 4
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randn(classes, topic_dim, generator=generator, device="cpu")
    mark = torch.randn(telling_dim, generator=generator, device="cpu")
    named = torch.cat([signs.repeat_interleave(a_topic, 0)] * 2 + [torch.zeros(noise, topic_dim, device="cpu")])
    tells = torch.cat(
        [torch.ones(classes * a_topic, device="cpu"), -torch.ones(classes * a_topic + noise, device="cpu")]
    )
    vectors = torch.cat([named, tells[:, None] * mark], 1)
    vectors = vectors + 1.2 * torch.randn(vectors.shape, generator=generator, device="cpu")
    number, place = train + test, torch.arange(length, device="cpu")
    topic = torch.randint(classes, (number, 1), generator=generator, device="cpu")
    which = torch.randint(a_topic, (number, length), generator=generator, device="cpu")
    others = torch.randint(classes, (number, length), generator=generator, device="cpu")
    documents = 2 * classes * a_topic + zipf(noise, (number, length), generator)
    documents = torch.where(place < 3 + 6, classes * a_topic + others * a_topic + which, documents)
    said = torch.randint(1, 4, (number, 1), generator=generator, device="cpu")
    documents = torch.where(place < said, topic * a_topic + which, documents)
    targets = topic.squeeze(1)
    data = Dataset(documents[:train], targets[:train], documents[train:], targets[train:], classes)
    return Task(name="attention", data=data, model=partial(WordAttention, vectors, classes, attend), threads=1)


class Factorisation(nn.Module):
    """r(u, m) = <WU[u], WM[m]> + bU[u] + bM[m] + b."""

    def __init__(self, users: int, movies: int, dim: int) -> None:
        super().__init__()
        self.users = nn.Parameter(torch.randn(users, dim, device="cpu"))
        self.movies = nn.Parameter(torch.randn(movies, dim, device="cpu"))
        self.user_bias = nn.Parameter(torch.randn(users, device="cpu"))
        self.movie_bias = nn.Parameter(torch.randn(movies, device="cpu"))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.1)
        self.bias = nn.Parameter(torch.tensor(1.0, device="cpu"))

    def forward(self, pairs: Tensor) -> Tensor:
        user, movie = pairs.unbind(1)
        found = (self.users[user] * self.movies[movie]).sum(1)
        return found + self.user_bias[user] + self.movie_bias[movie] + self.bias


def minus_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return -(outputs - targets).square()


def factorisation(
    data: str = "made", users: int = 943, movies: int = 1682, ratings: int = 100_000, dim: int = 4, seed: int = 0
) -> Task:
    """Ratings of movies by users, from the factors of both, their biases and a global one.

    Args:
        data: "made"; "movielens-100k", its files; or "movielens-100k-or-made", which are made where there are none, as
            a warning says then and the task's name always.
        users, movies, ratings, seed: of made ratings.
        dim: of the factors.

    Raises:
        UsageError: another name.
        LabError: the files are not at hand.
    """
    known = ("made", "movielens-100k", "movielens-100k-or-made")
    if data not in known:
        raise UsageError(f"data {data!r}: choose from {', '.join(known)}")
    found = None
    if data != "made":
        try:
            found = load("movielens-100k")
        except LabError as error:
            if data == "movielens-100k":
                raise
            to_stderr(f"warning: {error}; ratings are made instead")
    name = "made" if found is None else "movielens-100k"
    if found is None:
        found = made_ratings(users=users, items=movies, ratings=ratings, seed=seed)
    return Task(
        name=f"factorisation-{name}",
        data=found,
        model=partial(Factorisation, *counts(found), dim),
        loss=F.mse_loss,
        metric=minus_squared_error,
        metric_name="minus squared error",
        threads=1,
    )
