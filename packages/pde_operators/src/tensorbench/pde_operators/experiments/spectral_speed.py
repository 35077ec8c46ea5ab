"""Seconds of Fourier layers and operators beside neuraloperator 2.0's on the same batch, in one process on one thread.

``tfno`` compares dense and Tucker networks of equal modes, ranks and width: the layer alone, the forward pass, the
training step (forward, backward, Adam). ``forms`` compares our own formats, factored against reconstructed, at several
shares of the weights (the steps), and counts what a training step holds: weights, their gradients, and what the forward
pass keeps for the backward pass.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.pde_operators.factored import FORMATS
from tensorbench.pde_operators.fno import FNO, count_weights
from tensorbench.pde_operators.layer_costs import kept_bytes
from tensorbench.pde_operators.losses import relative_l2
from tensorbench.pde_operators.spectral_conv import SpectralConv

ROWS = ("layer", "forward", "step")


def run(run: Run) -> None:
    """One of the two comparisons."""
    METHODS[run.method.uses](run, **run.method.params)


def peer(run: Run, *, modes: int, hidden: int, layers: int, rank: float, repeats: int) -> None:
    """Ours and neuraloperator's, dense and Tucker."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.layers.spectral_convolution import SpectralConv as PeerConv
        from neuralop.models import FNO as PeerFNO

    x, wide = _inputs(run, hidden)
    grid = (modes, modes)
    for name, form in (("dense", None), ("tucker", "tucker")):
        options: dict[str, Any] = {"factorization": form, "rank": rank}
        ours = FNO(1, 1, grid, hidden, layers, generator=run.generator, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = PeerFNO(grid, 1, 1, hidden, n_layers=layers, implementation="factorized", **options)
            their_layer = PeerConv(hidden, hidden, grid, implementation="factorized", **options)
        our_layer = SpectralConv(hidden, hidden, grid, generator=run.generator, **options)
        rows = {
            "layer": (_forward(our_layer, wide), _forward(their_layer, wide)),
            "forward": (_forward(ours, x), _forward(theirs, x)),
            "step": (_step(ours, x), _step(theirs, x)),
        }
        for row, (mine, peers) in rows.items():
            seconds = compare({"ours": mine, "theirs": peers}, repeats=repeats, min_seconds=0.02)
            run.log(**{
                f"{name}_{row}_ratio": seconds.ratio("ours", "theirs").value,
                f"{name}_{row}_milliseconds": 1000 * seconds["ours"],
                f"{name}_{row}_peer_milliseconds": 1000 * seconds["theirs"],
            })  # fmt: skip
        run.log(**{f"{name}_same_weights": count_weights(ours) == count_weights(theirs)})


def forms(run: Run, *, modes: int, hidden: int, layers: int, rank: float, ranks: list[float], repeats: int) -> None:
    """Our formats against our dense network."""
    x, _ = _inputs(run, hidden)
    grid = (modes, modes)

    def network(form: str | None, share: float, how: str = "factorized", joint: bool = False) -> FNO:
        return FNO(1, 1, grid, hidden, layers, factorization=form, rank=share, implementation=how, joint=joint,
                   generator=run.generator)  # fmt: skip

    rivals = {"dense": _forward(network(None, 1.0), x)}
    rivals |= {form: _forward(network(form, rank), x) for form in FORMATS}
    rivals |= {f"{form}_rebuilt": _forward(network(form, rank, "reconstructed"), x) for form in FORMATS}
    rivals["tucker_joint"] = _forward(network("tucker", rank, joint=True), x)
    seconds = compare(rivals, repeats=repeats, min_seconds=0.02)
    for name in rivals:
        run.log(**{f"{name}_forward_milliseconds": 1000 * seconds[name]})
        if name != "dense":
            run.log(**{f"{name}_over_dense": seconds.ratio(name, "dense").value})
    run.log(**{f"{form}_over_rebuilt": seconds.ratio(form, f"{form}_rebuilt").value for form in FORMATS})
    falls = True
    for form in FORMATS:
        held = [_held_mib(network(form, share), x) for share in sorted(ranks)]
        for share, mib in zip(sorted(ranks), held, strict=True):
            run.log(step=share, **{f"{form}_held_mib": mib})
        falls = falls and all(a < b for a, b in itertools.pairwise(held))
    run.log(memory_falls_with_rank=falls, dense_held_mib=_held_mib(network(None, 1.0), x))


METHODS: dict[str, Callable[..., None]] = {"peer": peer, "forms": forms}


def _inputs(run: Run, hidden: int) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(run.dataset.load(run.seed))
    return x, torch.randn(len(x), hidden, *x.shape[2:], generator=run.generator)


def _forward(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return model(x)

    return call


def _step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    target = torch.flip(x, (-1,))

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        relative_l2(model(x), target).backward()
        optimizer.step()

    return call


def _held_mib(model: FNO, x: Tensor) -> float:
    """Weights and gradients (4 bytes each, twice) and what is kept for the backward pass."""
    kept = kept_bytes(lambda: relative_l2(model(x), x), model.parameters())
    return (8 * count_weights(model) + kept) / 2**20


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Ratios to the peer and to the dense network; memory against rank."""
    yield "ratios", _ratios(records)
    yield "memory", _memory(records)


def _ratios(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=7)
    peers = [(f"{name}, {row}", f"{name}_{row}_ratio") for name in ("dense", "tucker") for row in ROWS]
    ways = (("factored", ""), ("rebuilt", "_rebuilt"))
    formats = [(f"{form}, {what}", f"{form}{key}_over_dense") for form in FORMATS for what, key in ways]
    formats.append(("tucker, joint", "tucker_joint_over_dense"))
    groups = (("ours / neuraloperator 2.0", peers, 1.15), ("forward pass / dense", formats, 1.5))
    for ax, (title, rows, bound) in zip(axes, groups, strict=True):
        shown = [(text, records[metric].dropna()) for text, metric in rows if metric in records]
        if not shown:
            plotting.empty(ax)
            continue
        for place, (_, values) in enumerate(shown):
            look = {"linestyle": "none", "marker": "o", "markersize": 4.5, "color": "#0072B2", "alpha": 0.8}
            ax.plot(values, [place] * len(values), **look)
        ax.set_yticks(range(len(shown)), [text for text, _ in shown])
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.set_xlim(left=0)
        ax.set_xlim(right=max(ax.get_xlim()[1], 1.1 * bound))
        plotting.reference(ax, x=bound, text="bound")
        plotting.reference(ax, x=1.0)
        ax.set_xlabel(f"ratio of seconds: {title}")
    return fig


def _memory(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(columns=1, height=7)
    pieces = []
    for form in FORMATS:
        try:
            history = rec.history(records, f"{form}_held_mib") if len(records) else pd.DataFrame()
        except (KeyError, ValueError):
            history = pd.DataFrame()
        if len(history):
            pieces.append(history.assign(form={"cp": "CP", "tucker": "Tucker", "tt": "TT"}[form]))
    if not pieces:
        plotting.empty(ax)
        return fig
    plotting.log_axis(ax, "xy")
    plotting.series(ax, pd.concat(pieces), "step", "value", by="form")
    dense = records["dense_held_mib"].dropna() if "dense_held_mib" in records else pd.Series(dtype=float)
    if len(dense):
        plotting.reference(ax, y=float(dense.mean()), text="dense")
    ax.set(xlabel="share of the spectral weights", ylabel="held in a training step (MiB)")
    plotting.legend(fig)
    return fig
