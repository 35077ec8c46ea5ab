"""Completing sparse tensors by a neural model: does it help to add cells, and which?

All neural methods share the model, its training and, for a seed, its first weights; ``none`` is the model that the
others start from. They differ in the cells that they add, and the value predictor is the model unless ``labels`` says
otherwise. ``sweep`` names the datasets on which other fractions are tried too (the steps of the history).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines.completion import GradientBoosting, MaskedCP
from tensorbench.decomposition.completion import augment
from tensorbench.decomposition.completion.dain import augment_fit, base_fit
from tensorbench.decomposition.completion.influence import (
    cell_importance,
    curvature_influence,
    entity_importance,
    leave_one_out,
)
from tensorbench.decomposition.completion.neural import EmbeddingMLP, Training
from tensorbench.decomposition.completion.sparse import Split, mae, rmse

AUGMENTERS: dict[str, Callable[[Split, str], augment.Augmenter]] = {
    "dain": lambda split, labels: augment.DAIN(labels),
    "frequency": lambda split, labels: augment.FrequencyDAIN(labels),
    "uniform_entities": lambda split, labels: augment.UniformEntityDAIN(labels),
    "random": lambda split, labels: augment.RandomAug(labels),
    "duplication": lambda split, labels: augment.Duplication(),
    "entity_replacement": lambda split, labels: augment.EntityReplacement(labels),
    "true_values": lambda split, labels: augment.TrueLabel(truth=split.truth),
}
# Methods in the figures of errors relative to "none", in this order.
SHOWN = ("none", "dain", "random", "duplication", "entity_replacement", "uniform_entities", "frequency", "true_values")
MODES = ("first mode", "second mode", "third mode")


def neural(
    run: Run,
    split: Split,
    *,
    layers: list[int],
    fraction: float = 0.0,
    sweep: dict[str, list[float]] | None = None,
    labels: str = "model",
    **training,
) -> None:
    """Train, augment, train again; log the errors of the last model."""
    factory = partial(EmbeddingMLP, layers=layers)
    options = {"seed": run.seed, "device": run.device, **training}
    name = run.method.uses
    augmenter = AUGMENTERS[name](split, labels) if name in AUGMENTERS else None
    with run.time("fit"):
        base = base_fit(split, factory, track_influence=augmenter is not None and augmenter.needs_importance, **options)
        final, seconds, added = base, {"train": base.seconds}, 0
        if augmenter is not None:
            result = augment_fit(base, split, factory, fraction=fraction, augmenter=augmenter, **options)
            final, seconds, added = result.augmented, result.seconds, len(result.cells)
    if augmenter is not None:
        others = {}
        for other in (sweep or {}).get(run.dataset.name, []):
            result = augment_fit(base, split, factory, fraction=other, augmenter=augmenter, **options)
            others[other] = _test_rmse(result.augmented, split)
        for at, value in sorted({**others, fraction: _test_rmse(final, split)}.items()):
            run.log(step=at, test_rmse=value)
    run.log(
        test_rmse=_test_rmse(final, split),
        test_mae=mae(final.predict(split.test.idx), split.test.val),
        valid_rmse=min(final.valid_rmse),
        base_rmse=_test_rmse(base, split),
        best_epoch=final.best_epoch,
        added_cells=added,
        parameters=final.model.parameters_count,
        **{f"{step}_seconds": value for step, value in seconds.items()},
    )
    if run.seed == 0 and base.importance is not None and labels == "model":
        shares = entity_importance(base.importance, split.train.idx, split.train.dims)
        arrays = {f"share{k}": share for k, share in enumerate(shares)}
        arrays |= {f"count{k}": count for k, count in enumerate(split.train.counts())}
        np.savez_compressed(run.artifact("importance.npz"), importance=base.importance, **arrays)


def _test_rmse(model: Training, split: Split) -> float:
    return rmse(model.predict(split.test.idx), split.test.val)


def leave_out(run: Run, split: Split, *, layers: list[int], cells: int, **training) -> None:
    """Rank correlation of the importance of some cells with what leaving them out does to the validation loss.

    Importance is DAIN's, from training the whole network; for the effect, the last layer is trained anew on the trained
    network's hidden vectors.
    """
    import torch
    from scipy.stats import spearmanr

    base = base_fit(split, partial(EmbeddingMLP, layers=layers), seed=run.seed, keep_checkpoints=True, **training)
    full = cell_importance(base.model, base.checkpoints, split.train, split.valid, "full")
    with torch.no_grad():
        hidden, valid_hidden = (base.model.features(torch.as_tensor(p.idx)) for p in (split.train, split.valid))
    chosen = run.rng.choice(len(split.train), size=cells, replace=False)
    problem = (hidden, torch.as_tensor(split.train.val), valid_hidden, torch.as_tensor(split.valid.val))
    effect = leave_one_out(*problem, chosen)
    run.log(
        spearman=spearmanr(base.importance[chosen], effect).statistic,
        spearman_full=spearmanr(full[chosen], effect).statistic,
        spearman_curvature=spearmanr(curvature_influence(*problem)[chosen], effect).statistic,
        variants_agree=spearmanr(base.importance, full).statistic,
    )
    if run.seed == 0:
        np.savez_compressed(run.artifact("leave_one_out.npz"), importance=base.importance[chosen], effect=effect)


def baseline(make: Callable, run: Run, split: Split, **params) -> None:
    """Fit on the training cells, which are all that the networks are fitted to; validation cells judge the trials."""
    model = make(split, seed=run.seed, **params)
    tuning = run.trial is not None
    test = split.valid if tuning else split.test
    with run.time("fit"):
        model.fit(split.train.idx + 0.5, split.train.val)
    predicted = model.predict(test.idx + 0.5)
    if tuning:
        run.log(valid_rmse=rmse(predicted, test.val))
    else:
        run.log(test_rmse=rmse(predicted, test.val), test_mae=mae(predicted, test.val), parameters=model.parameters)


def masked_cp(split: Split, **params) -> MaskedCP:
    """On bins of the indices, as its tensor is dense; a bin holds the mean of its cells."""
    dims = split.train.dims
    return MaskedCP(shape=dims, extent=[(0.0, float(n)) for n in dims], **params)


def gbm(split: Split, **params) -> GradientBoosting:
    """On the indices as numbers."""
    return GradientBoosting(**params)


METHODS = {
    "none": neural,
    "dain": neural,
    "random": neural,
    "duplication": neural,
    "entity_replacement": neural,
    "uniform_entities": neural,
    "frequency": neural,
    "true_values": neural,
    "masked_cp": partial(baseline, masked_cp),
    "gbm": partial(baseline, gbm),
    "leave_one_out": leave_out,
}


def run(run: Run) -> None:
    """Load the split of the seed and let the method log its errors."""
    METHODS[run.method.uses](run, run.dataset.load(run.seed), **run.method.params)


# ------------------------------------------------------------------ figures


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Errors of all methods, the change per seed, error against fraction, importance."""
    yield "accuracy", accuracy(records)
    yield "paired", paired(records)
    yield "fractions", fractions(records)
    yield "importance", importance(records)


def _scored(records: pd.DataFrame) -> pd.DataFrame:
    return records[records["test_rmse"].notna()] if "test_rmse" in records else records.iloc[:0]


def accuracy(records: pd.DataFrame) -> Figure:
    """Test error of every method, a panel per dataset."""
    records = _scored(records)
    names, methods = list(pd.unique(records["dataset"])) or ["none"], list(pd.unique(records["method"]))
    fig, axes = plotting.figure(columns=2, cols=len(names), height=6.6, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=True):
        part = records[records["dataset"] == name]
        plotting.bars(ax, part, "test_rmse", by="method", log=True, order=methods)
        ax.set_xticks([])
        ax.set_title(plotting.label(name), fontsize=8)
        if ax is not axes.flat[0]:
            ax.set_ylabel("")
    plotting.legend(fig)
    return fig


def _relative(records: pd.DataFrame, values: pd.DataFrame, column: str) -> pd.DataFrame:
    """``values`` of the methods that add cells, each over the error of the same seed without added cells."""
    base = records.loc[records["method"] == "none", ["dataset", "seed", "test_rmse"]]
    base = base.rename(columns={"test_rmse": "base"})
    joined = values[values["method"].isin(SHOWN)].merge(base, on=["dataset", "seed"])
    return joined.assign(relative=joined[column] / joined["base"])


def paired(records: pd.DataFrame) -> Figure:
    """Test error over that of the un-augmented model of the same seed: a line per seed, a panel per dataset."""
    scored = _scored(records)
    relative = _relative(scored, scored, "test_rmse") if len(scored) else scored
    names = [name for name in pd.unique(scored["dataset"]) if len(relative) and name in set(relative["dataset"])]
    names = names or ["none"]
    fig, axes = plotting.figure(columns=2, cols=len(names), height=7.0, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=True):
        ax.set_title(plotting.label(name), fontsize=8)
        part = relative[relative["dataset"] == name]
        order = [method for method in SHOWN if method in set(part["method"])]
        if len(order) < 2:
            plotting.empty(ax)
            continue
        table = part.pivot_table(index="seed", columns="method", values="relative")[order]
        for line in table.to_numpy():
            ax.plot(range(len(order)), line, color="#999999", linewidth=0.7, marker=".", markersize=3, zorder=2)
        for at, method in enumerate(order):
            look = plotting.style(method)
            ax.plot(at, table[method].mean(), color=look["color"], marker=look["marker"], markersize=6, zorder=3)
        ax.set_xticks(range(len(order)), [plotting.label(m) for m in order], rotation=90, fontsize=7)
        ax.grid(False, axis="x")
    axes.flat[0].set_ylabel("test RMSE / that of the same\nseed without added cells")
    return fig


def fractions(records: pd.DataFrame) -> Figure:
    """Relative test error against the number of added cells on the datasets with a sweep."""
    history = rec.history(records, "test_rmse")
    relative = _relative(records, history, "value") if len(history) else history
    counts = relative.groupby("dataset")["step"].nunique() if len(relative) else pd.Series(dtype=int)
    names = list(counts[counts > 1].index) or ["none"]
    fig, axes = plotting.figure(columns=1 if len(names) == 1 else 2, cols=len(names), height=8.0, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=True):
        part = relative[relative["dataset"] == name].rename(columns={"step": "fraction"})
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.series(ax, part, "fraction", "relative", order=[m for m in SHOWN if m in set(part["method"])])
        plotting.reference(ax, y=1.0, text="no added cells")
        ax.set_xlabel("added cells / training cells")
        ax.set_ylabel("test RMSE / that without added cells")
        ax.set_title(plotting.label(name), fontsize=8)
    plotting.legend(fig)
    return fig


def importance(records: pd.DataFrame) -> Figure:
    """How often an entity occurs and how important it is; the most important ones; leave-one-out effects."""
    fig, (left, middle, right) = plotting.figure(columns=2, cols=3, height=6.4)
    found = rec.artifacts(records, "importance.npz").sort_values("dataset").reset_index(drop=True)
    if found.empty:
        plotting.empty(left)
        plotting.empty(middle)
    else:
        with np.load(found["path"][0]) as stored:
            arrays = dict(stored)
        looks = list(plotting.styles(MODES).values())
        for k, look in enumerate(looks):
            count, share = arrays[f"count{k}"], arrays[f"share{k}"]
            some = (count > 0) & (share > 0)
            left.plot(count[some], share[some], linestyle="", alpha=0.5, markersize=2.5, **_dots(look))
        plotting.log_axis(left, "xy")
        left.set(xlabel="training cells with the entity", ylabel="importance of the entity")
        left.set_title(plotting.label(found["dataset"][0]), fontsize=8)
        plotting.legend(left, fontsize=7, handletextpad=0.2, borderpad=0.1)
        k = int(np.argmin([len(arrays[f"share{k}"]) for k in range(len(MODES))]))
        top = np.argsort(arrays[f"share{k}"])[::-1][:12]
        frequency = arrays[f"count{k}"] / arrays[f"count{k}"].sum()
        middle.bar(np.arange(len(top)) - 0.2, arrays[f"share{k}"][top], 0.4, label="importance", color="#0072B2")
        middle.bar(np.arange(len(top)) + 0.2, frequency[top], 0.4, label="frequency", color="#BBBBBB")
        middle.set_xticks(range(len(top)), [str(j) for j in top], rotation=90, fontsize=7)
        middle.set(xlabel=f"entity of the {MODES[k]}", ylabel="share")
        middle.grid(False, axis="x")
        middle.set_ylim(0, 1.3 * max(arrays[f"share{k}"][top].max(), frequency[top].max()))
        plotting.legend(middle, fontsize=7, loc="upper right")
    found = rec.artifacts(records, "leave_one_out.npz")
    if found.empty:
        plotting.empty(right)
        return fig
    with np.load(found["path"].iloc[0]) as stored:
        ranks = [np.argsort(np.argsort(stored[name])) + 1 for name in ("importance", "effect")]
    right.plot(*ranks, linestyle="", marker="o", markersize=3, color="#0072B2")
    right.set(xlabel="rank of the cell's importance", ylabel="rank of the loss without the cell")
    right.set_title(plotting.label(str(found["dataset"].iloc[0])), fontsize=8)
    return fig


def _dots(look: dict) -> dict:
    return {key: look[key] for key in ("color", "marker", "label")}
