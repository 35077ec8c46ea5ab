"""Rank, format and number of samples: how far the spectral weights of a Fourier neural operator can be factored.

``fno`` trains the dense network and factors its trained weights afterwards, in every format at every share (metrics
``posthoc_<format>``; the step is the share of the weights). ``tfno`` trains in factored form at every share, each
layer by itself (``test_l2``; the final value is at ``rank``) and all layers as one tensor (``joint_l2``). Both train on
growing numbers of ``samples`` (``samples_l2``; the step is their number), with the same number of steps for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators.experiments import operator_training as training
from tensorbench.pde_operators.factored import FORMATS
from tensorbench.pde_operators.fno import FNO, count_weights
from tensorbench.pde_operators.patching import MultigridPatching2D
from tensorbench.pde_operators.posthoc import compression_ratio, factorize

WHOLE = MultigridPatching2D(0)
WAYS = ("layer by layer", "all layers as one", "factored after training")


def run(run: Run) -> None:
    """Every setting of one format."""
    options = dict(run.method.params)
    ranks, rank, samples = options.pop("ranks"), options.pop("rank", None), options.pop("samples", [])
    form, joint = options.pop("factorization", None), options.pop("joint", False)
    data = run.dataset.load(0)
    fields = training.prepare(data, run.device)
    with run.time("fit"):
        if form is None:
            model, network = _trained(run, fields, options)
            _log(run, "test_l2", model, network, fields, None)
            for name in FORMATS:
                for share in ranks:
                    compact = factorize(network.cpu(), name, share).to(run.device)
                    after = training.Operator(compact, WHOLE, fields.target_scale).to(run.device)
                    _log(run, f"posthoc_{name}", after, compact, fields, share)
        else:
            for share in sorted(ranks, key=lambda r: r == rank):  # the one that stands for the format comes last
                for together in (True, False) if joint else (False,):
                    model, network = _trained(run, fields, options, form, share, together)
                    _log(run, "joint_l2" if together else "test_l2", model, network, fields, share)
            run.log(weights=count_weights(network), compression=compression_ratio(network))
    if samples:
        run.log(step=len(fields.train[0]), samples_l2=run.metrics["test_l2"])
    for count in samples:
        part = training.prepare(data, run.device, count)
        model, _ = _trained(run, part, options, form, rank)
        run.log(step=count, samples_l2=training.error(model, next(iter(part.test.values()))))


def _trained(
    run: Run,
    fields: training.Fields,
    options: dict[str, Any],
    form: str | None = None,
    rank: float | None = None,
    joint: bool = False,
) -> tuple[training.Operator, FNO]:
    modes, hidden, layers, steps, batch, rate = (
        options[name] for name in ("modes", "hidden", "layers", "steps", "batch", "learning_rate")
    )
    network = FNO(
        fields.train[0].shape[1],
        fields.train[1].shape[1],
        (modes, modes),
        hidden,
        layers,
        factorization=form,
        rank=0.1 if rank is None else rank,
        joint=joint,
        generator=run.generator,
    ).to(run.device)
    model = training.Operator(network, WHOLE, fields.target_scale).to(run.device)
    training.train(model, fields.train, run, steps=steps, batch=batch, rate=rate, log=False)
    return model, network


def _log(
    run: Run, metric: str, model: training.Operator, network: FNO, fields: training.Fields, share: float | None
) -> None:
    """Error at the training resolution under ``metric``, at others with their name; a step where there is a share."""
    first, *others = fields.test
    values = {metric: training.error(model, fields.test[first])}
    if metric == "test_l2":
        values |= {f"test_l2_{name}": training.error(model, fields.test[name]) for name in others}
        values["valid_l2"] = training.error(model, fields.valid)
    values[f"weights_{metric}"] = count_weights(network)
    values[f"compression_{metric}"] = compression_ratio(network)
    if share is None:
        run.log(weights=count_weights(network), compression=compression_ratio(network), **values)
    else:
        run.log(step=share, **values)


METHODS = {"fno": FNO, "tfno": FNO}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error against compression, and against samples."""
    yield "compression", _compression(records)
    yield "samples", _samples(records)


def _history(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    try:
        return rec.history(records, metric) if len(records) else pd.DataFrame()
    except (KeyError, ValueError):
        return pd.DataFrame()


def _compression(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=3, height=7.2, sharey=True)
    dense = (
        records.loc[records["method"] == "fno", "test_l2"].dropna() if "test_l2" in records else pd.Series(dtype=float)
    )
    for ax, (name, method) in zip(axes, (("CP", "cp"), ("Tucker", "tucker"), ("TT", "tt")), strict=True):
        ax.set_title(name)
        pieces = []
        for metric, of, what in (
            ("test_l2", method, WAYS[0]),
            ("joint_l2", method, WAYS[1]),
            (f"posthoc_{method}", "fno", WAYS[2]),
        ):
            error, ratio = _history(records, metric), _history(records, f"compression_{metric}")
            if len(error):
                both = error.merge(ratio, on=["dataset", "method", "seed", "step"], suffixes=("", "_ratio"))
                both = both[both["method"] == of]
                both["value_ratio"] = both.groupby("step")["value_ratio"].transform("mean")
                pieces.append(both.assign(way=what))
        if not pieces or sum(map(len, pieces)) == 0:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "xy")
        ax.set(xlabel="compression of spectral weights", ylabel="relative L² error" if method == "cp" else " ")
        plotting.series(ax, pd.concat(pieces), "value_ratio", "value", by="way", order=WAYS)
        if len(dense):
            plotting.reference(ax, y=float(dense.mean()), text="dense")
    plotting.legend(fig)
    return fig


def _samples(records: pd.DataFrame) -> Figure:
    history = _history(records, "samples_l2")
    datasets = list(dict.fromkeys(history["dataset"])) if len(history) else []
    count = len(datasets) or 1
    fig, axes = plotting.figure(columns=2 if count > 1 else 1, cols=count, height=7, sharey=True, squeeze=False)
    if not datasets:
        plotting.empty(axes[0, 0])
    for ax, dataset in zip(axes[0], datasets, strict=False):
        shown = history[history["dataset"] == dataset]
        plotting.log_axis(ax, "x", ticks=sorted(shown["step"].unique()))
        plotting.log_axis(ax, "y")
        ax.set(xlabel="training samples", ylabel=" " if ax is not axes[0, 0] else "relative L² error")
        ax.set_title(plotting.label(dataset))
        # The two methods bear other names on the second dataset but are the same.
        same = shown.assign(method=shown["method"].str.removeprefix("own_"))
        plotting.series(ax, same, "step", "value")
    plotting.legend(fig)
    return fig
