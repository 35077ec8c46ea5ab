"""DAIN: influence-guided data augmentation for neural tensor completion, from cells to a retrained model.

Oh, Kim, Rossi and Kumar (CIKM 2021), arXiv 2108.10248. Train a model and measure the importance of each training cell
for the validation cells (steps 1 and 2), turn it into the importance of entities (step 3), draw new cells by it, let
the model give them values and train a new model on the union (step 4).

>>> split = split_cells(data, seed=0).standardised()
>>> result = dain_fit(split, partial(EmbeddingMLP, layers=[60, 64, 64, 32]), fraction=0.5, seed=0, epochs=50)
>>> rmse(result.predict(split.test.idx), split.test.val)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from tensorbench.decomposition.completion.augment import DAIN, Augmenter, Source
from tensorbench.decomposition.completion.neural import EmbeddedModel, Training, train_model
from tensorbench.decomposition.completion.sparse import SparseTensorData, Split

# model_factory(dims, generator=...): a fresh model; ``partial(EmbeddingMLP, layers=...)`` is one.
ModelFactory = Callable[..., EmbeddedModel]
_DAIN = DAIN()


@dataclass
class DAINResult:
    """Both trainings, the cells that were added, and where the time went (seconds of ``train``, ``augment``,
    ``retrain``)."""

    base: Training
    augmented: Training
    cells: SparseTensorData
    seconds: dict[str, float]

    def predict(self, idx: Int[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """The augmented model's predictions."""
        return self.augmented.predict(idx)


def base_fit(
    split: Split,
    model_factory: ModelFactory,
    *,
    seed: int = 0,
    track_influence: bool = True,
    device: torch.device | str = "cpu",
    **training,
) -> Training:
    """Train on the split's training cells alone (steps 1 and 2); ``seed`` decides the weights and the cells' order."""
    return _train(split.train, split.valid, model_factory, seed, device, track_influence=track_influence, **training)


def augment_fit(
    base: Training,
    split: Split,
    model_factory: ModelFactory,
    *,
    fraction: float = 0.5,
    augmenter: Augmenter = _DAIN,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **training,
) -> DAINResult:
    """Add cells to the training cells and train a new model on the union (steps 3 and 4).

    The new model starts from the same weights as the base with the same seed; ``fraction=0`` repeats the base bit by
    bit. Raises ValueError for a negative fraction.
    """
    if not (fraction >= 0 and np.isfinite(fraction)):
        raise ValueError(f"fraction {fraction} of the training cells must be at least 0")
    began = time.perf_counter()
    source = Source(split.train, base.model, base.importance)
    rng = np.random.default_rng([seed, 1])  # not the stream that split the cells
    cells = augmenter(source, int(fraction * len(split.train)), rng)
    drawn = time.perf_counter()
    augmented = _train(split.train.join(cells), split.valid, model_factory, seed, device, **training)
    seconds = {"train": base.seconds, "augment": drawn - began, "retrain": augmented.seconds}
    return DAINResult(base, augmented, cells, seconds)


def dain_fit(
    split: Split,
    model_factory: ModelFactory,
    fraction: float = 0.5,
    *,
    augmenter: Augmenter = _DAIN,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **training,
) -> DAINResult:
    """The whole of DAIN, or of another augmenter, with one seed; ``training`` goes to :func:`.neural.train_model`."""
    tracked = augmenter.needs_importance
    base = base_fit(split, model_factory, seed=seed, track_influence=tracked, device=device, **training)
    return augment_fit(
        base, split, model_factory, fraction=fraction, augmenter=augmenter, seed=seed, device=device, **training
    )


def _train(
    train: SparseTensorData,
    valid: SparseTensorData,
    model_factory: ModelFactory,
    seed: int,
    device: torch.device | str,
    **training,
) -> Training:
    generator = torch.Generator().manual_seed(seed)
    model = model_factory(train.dims, generator=generator).to(device)
    return train_model(model, train, valid, generator=generator, **training)


def paired_test(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """p-values for "no difference" of two methods over the same seeds: ``wilcoxon`` (signed ranks) and ``t`` (paired).

    With n seeds the smallest p-value of the Wilcoxon test is 2^(1-n): 0.0625 for five. Both are 1 where nothing
    differs. Raises ValueError for lengths that differ or fewer than two seeds.
    """
    from scipy import stats

    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"paired values of two or more seeds are needed, got shapes {a.shape} and {b.shape}")
    if np.array_equal(a, b):
        return {"wilcoxon": 1.0, "t": 1.0}
    return {"wilcoxon": float(stats.wilcoxon(a, b).pvalue), "t": float(stats.ttest_rel(a, b).pvalue)}
