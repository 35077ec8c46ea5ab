"""More training cells for sparse tensor completion: which cells to add, and with which values.

Step 4 of DAIN (Oh, Kim, Rossi and Kumar 2021, arXiv 2108.10248) and what it is compared with. An augmenter is called
with a :class:`Source` (training cells, a model trained on them, their importance), a number and a random generator, and
returns that many new cells:

- :class:`DAIN`: every index is drawn by the importance of the entities of its mode, independently; the model gives the
  value. :class:`FrequencyDAIN` and :class:`UniformEntityDAIN` are ablations without influence, :class:`TrueLabel`
  an oracle with the true values.
- :class:`RandomAug`: any cell of the tensor. :class:`EntityReplacement`: an observed cell with one entity replaced.
  :class:`Duplication`: an observed cell again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from tensorbench.core.errors import unknown
from tensorbench.decomposition.completion.influence import entity_importance
from tensorbench.decomposition.completion.neural import EmbeddedModel, predict
from tensorbench.decomposition.completion.sparse import SparseTensorData, Truth

Labels = Literal["model", "knn", "mean"]
LABELS = ("model", "knn", "mean")
MAX_ROUNDS = 50  # of drawing anew what was rejected


@dataclass(frozen=True)
class Source:
    """What an augmenter may look at."""

    train: SparseTensorData
    model: EmbeddedModel
    importance: np.ndarray | None = None


class Augmenter(Protocol):
    needs_importance: bool

    def __call__(self, source: Source, n: int, rng: np.random.Generator) -> SparseTensorData: ...


def sample_cells(
    probabilities: Sequence[Float[np.ndarray, " _"]],
    n: int,
    rng: np.random.Generator,
    *,
    replace: bool = True,
    existing: Int[np.ndarray, "m k"] | None = None,
) -> Int[np.ndarray, "n k"]:
    """``n`` index tuples, each mode's index drawn from its own distribution.

    Args:
        replace: whether a tuple may come up twice.
        existing: tuples to reject, say the observed ones.

    Raises:
        ValueError: n < 0, something that is no distribution, or no ``n`` such tuples found after many rounds.
    """
    if n < 0:
        raise ValueError(f"n {n} must be at least 0")
    for mode, p in enumerate(probabilities):
        if not (np.isfinite(p).all() and p.min() >= 0 and abs(p.sum() - 1) < 1e-8):
            raise ValueError(f"the probabilities of mode {mode} are no distribution (sum {p.sum():.6g})")

    def draw(count: int) -> np.ndarray:
        return np.stack([rng.choice(len(p), size=count, p=p) for p in probabilities], axis=1)

    if replace and existing is None:
        return draw(n)
    found = np.zeros((0, len(probabilities)), dtype=np.int64)
    known = found if existing is None else existing
    for _ in range(MAX_ROUNDS):
        new = draw(n - len(found))
        blocked = known if replace else np.concatenate([known, found])
        rows = np.concatenate([blocked, new])
        _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        fresh = first[group.reshape(-1)[len(blocked) :]] >= len(blocked)
        if not replace:
            fresh &= first[group.reshape(-1)[len(blocked) :]] == np.arange(len(blocked), len(rows))
        found = np.concatenate([found, new[fresh]])
        if len(found) == n:
            return found
    raise ValueError(f"only {len(found)} of {n} new cells were found in {MAX_ROUNDS} rounds; ask for fewer")


def label_cells(
    idx: Int[np.ndarray, "m k"],
    by: Labels,
    train: SparseTensorData,
    model: EmbeddedModel | None = None,
    neighbours: int = 5,
) -> Float[np.ndarray, " m"]:
    """Values for new cells.

    ``model``: its prediction. ``knn``: the mean of the training cells whose embeddings (the model's, side by side) are
    nearest. ``mean``: of the mean values of the cell's entities, one per mode (the mean of all where one is unseen).
    """
    if by not in LABELS:
        raise ValueError(unknown("labels", str(by), LABELS))
    if by == "mean":
        overall = float(train.val.mean())
        total = np.zeros(len(idx))
        for column, cells, count in zip(idx.T, train.idx.T, train.counts(), strict=True):
            sums = np.bincount(cells, weights=train.val, minlength=len(count))
            total += np.where(count > 0, sums / np.maximum(count, 1), overall)[column]
        return total / train.order
    if model is None:
        raise ValueError(f"labels {by!r} need a model")
    if by == "model":
        return predict(model, idx)
    from sklearn.neighbors import KNeighborsRegressor

    with torch.no_grad():
        device = model.table.device
        seen, new = (
            model.embed(torch.as_tensor(cells, device=device)).flatten(1).double().cpu().numpy()
            for cells in (train.idx, idx)
        )
    regressor = KNeighborsRegressor(min(neighbours, len(train)), algorithm="brute").fit(seen, train.val)
    return regressor.predict(new) if len(new) else np.zeros(0)


@dataclass(frozen=True)
class DAIN:
    """Cells of important entities. ``reject_existing``: no observed cells; ``replace``: a cell may come up twice."""

    labels: Labels = "model"
    replace: bool = True
    reject_existing: bool = False

    needs_importance = True

    def probabilities(self, source: Source) -> list[np.ndarray]:
        """Of every entity, per mode."""
        if source.importance is None:
            raise ValueError("DAIN needs the importance of the training cells; train with track_influence=True")
        return entity_importance(source.importance, source.train.idx, source.train.dims)

    def label(self, source: Source, idx: np.ndarray) -> np.ndarray:
        return label_cells(idx, self.labels, source.train, source.model)

    def __call__(self, source: Source, n: int, rng: np.random.Generator) -> SparseTensorData:
        existing = source.train.idx if self.reject_existing else None
        idx = sample_cells(self.probabilities(source), n, rng, replace=self.replace, existing=existing)
        return SparseTensorData(idx, self.label(source, idx), source.train.dims)


@dataclass(frozen=True)
class FrequencyDAIN(DAIN):
    """All cells equally important: entities are drawn as often as they were observed."""

    needs_importance = False

    def probabilities(self, source: Source) -> list[np.ndarray]:
        return entity_importance(np.ones(len(source.train)), source.train.idx, source.train.dims)


@dataclass(frozen=True)
class UniformEntityDAIN(DAIN):
    """All entities that were observed equally important."""

    needs_importance = False

    def probabilities(self, source: Source) -> list[np.ndarray]:
        seen = [count > 0 for count in source.train.counts()]
        return [mode / mode.sum() for mode in seen]


@dataclass(frozen=True)
class RandomAug(DAIN):
    """Any cell of the tensor, observed entities or not."""

    needs_importance = False

    def probabilities(self, source: Source) -> list[np.ndarray]:
        return [np.full(n, 1 / n) for n in source.train.dims]


@dataclass(frozen=True)
class TrueLabel(DAIN):
    """DAIN's cells with their true values: what a perfect value predictor would add."""

    truth: Truth | None = None

    def label(self, source: Source, idx: np.ndarray) -> np.ndarray:
        if self.truth is None:
            raise ValueError("TrueLabel needs the truth, a function of index tuples; real data have none")
        return self.truth(idx)


@dataclass(frozen=True)
class Duplication:
    """Observed cells again, with their values."""

    needs_importance = False

    def __call__(self, source: Source, n: int, rng: np.random.Generator) -> SparseTensorData:
        return source.train.take(rng.integers(len(source.train), size=n))


@dataclass(frozen=True)
class EntityReplacement:
    """Observed cells in which one entity, of a random mode, is replaced by another observed one of that mode.

    ``labels="keep"`` keeps the old cell's value. Modes with one observed entity are left as they are; where all are so,
    there is nothing to replace and a ValueError.
    """

    labels: Labels | Literal["keep"] = "model"

    needs_importance = False

    def __call__(self, source: Source, n: int, rng: np.random.Generator) -> SparseTensorData:
        cells = Duplication()(source, n, rng)
        idx = cells.idx.copy()
        observed = [np.unique(column) for column in source.train.idx.T]
        modes = np.array([k for k, entities in enumerate(observed) if len(entities) > 1])
        if not len(modes):
            raise ValueError("every mode has a single observed entity; none can be replaced by another")
        mode = modes[rng.integers(len(modes), size=n)]
        for k in modes:
            here = mode == k
            place = np.searchsorted(observed[k], idx[here, k])
            other = rng.integers(len(observed[k]) - 1, size=int(here.sum()))
            idx[here, k] = observed[k][other + (other >= place)]
        if self.labels == "keep":
            return replace(cells, idx=idx)
        return replace(cells, idx=idx, val=label_cells(idx, self.labels, source.train, source.model))
