"""How low the rank of people's Gaussians is: formats fitted to attribute tensors, nothing rendered.

The tensor (people, Gaussians, 43) of 4 to 16 related people at the same places of their skin. The steps of the
history are ranks; formats are compared at the weights they have. Attributes are fitted as they are (the paper scales
none); beside the relative error stand the error of positions in millimetres and of colours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.migs.tensors import FullTensor, GaussianTensorCP

log = logging.getLogger(__name__)


def cp(tensor: np.ndarray, rank: int, seed: int, *, iterations: int) -> tuple[np.ndarray, int]:
    """TensorLy's alternating least squares."""
    import tensorly as tl
    from tensorly.decomposition import parafac

    init = "svd" if rank <= min(tensor.shape) else "random"
    fitted = parafac(tensor, rank, n_iter_max=iterations, init=init, tol=1e-7, random_state=seed)
    return tl.cp_to_tensor(fitted), sum(tensor.shape) * rank


def tucker(tensor: np.ndarray, rank: int, seed: int, *, iterations: int) -> tuple[np.ndarray, int]:
    """TensorLy's Tucker by orthogonal iteration: all people's modes (at most ten), ``rank`` of the others."""
    import tensorly as tl
    from tensorly.decomposition import tucker as decompose

    ranks = [min(len(tensor), 10), min(rank, tensor.shape[1]), min(rank, tensor.shape[2])]
    core, factors = decompose(tensor, rank=ranks, n_iter_max=iterations, init="svd", random_state=seed)
    weights = core.size + sum(f.size for f in factors)
    return tl.tucker_to_tensor((core, factors)), weights


def train(tensor: np.ndarray, rank: int, seed: int, *, iterations: int) -> tuple[np.ndarray, int]:
    """TensorLy's tensor train by singular value decompositions: ranks (all people up to ten, ``rank``)."""
    import tensorly as tl
    from tensorly.decomposition import tensor_train

    cores = tensor_train(tensor, rank=[1, min(len(tensor), 10), min(rank, tensor.shape[2]), 1])
    return tl.tt_to_tensor(cores), sum(c.size for c in cores)


def each(tensor: np.ndarray, rank: int, seed: int, *, iterations: int) -> tuple[np.ndarray, int]:
    """A matrix (Gaussians, attributes) of that rank for each person: nothing is shared."""
    rank = min(rank, tensor.shape[2])
    u, s, v = np.linalg.svd(tensor, full_matrices=False)
    weights = len(tensor) * rank * sum(tensor.shape[1:])
    return (u[..., :rank] * s[:, None, :rank]) @ v[:, :rank], weights


METHODS = {"cp": cp, "tucker": tucker, "train": train, "each": each}


def run(run: Run) -> None:
    """Every rank; the claimed one's errors are the final ones."""
    import tensorly as tl

    tensor: Float[np.ndarray, "i g m"] = run.dataset.load(run.seed).values
    options = dict(run.method.params)
    ranks, claimed = options.pop("ranks"), options.pop("claimed")
    people, gaussians, attributes = tensor.shape
    if run.method.uses == "cp":
        run.log(counts_exact=_counts_exact(people, gaussians, attributes, ranks))
    with run.time("fit"), tl.backend_context("numpy"):
        for rank in sorted(ranks, key=lambda r: (r == claimed, r)):  # the claimed one last: it stays as final value
            fitted, weights = METHODS[run.method.uses](tensor, rank, run.seed, **options)
            off = fitted - tensor
            color = [1 / (1 + np.exp(-x[..., 10:13])) for x in (fitted, tensor)]
            run.log(
                step=rank,
                error_at=np.linalg.norm(off) / np.linalg.norm(tensor),
                weights_at=weights,
                share_at=weights / tensor.size,
                position_mm_at=1000 * np.sqrt(np.square(off[..., :3]).sum(-1).mean()),
                color_at=np.sqrt(np.square(color[0] - color[1]).mean()),
            )


def _counts_exact(people: int, gaussians: int, attributes: int, ranks: list[int]) -> bool:
    """Whether the modules have the weights that the formula says, here and in the paper's setting."""
    right = GaussianTensorCP(30, 50_000, rank=100).count() == 5_007_300
    for rank in ranks:
        counted = GaussianTensorCP(people, gaussians, attributes, rank=rank).count()
        right &= counted == (attributes + people + gaussians) * rank
    return right and FullTensor(people, gaussians, attributes).count() == people * gaussians * attributes


def more_people(records: pd.DataFrame) -> np.ndarray:
    """Relative error of CP at the claimed rank for 16 people over that for 4, for each seed."""
    table = records[records["method"] == "cp"].pivot_table(index="seed", columns="dataset", values="error_at")
    return (table["people_16"] / table["people_4"]).dropna().to_numpy()


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error over weights, a panel for each number of people; error over the rank of CP by number of people."""
    fig, axes = plotting.figure(columns=2, cols=3, height=7, sharey=True)
    errors, weights = (rec.history(records, name) for name in ("error_at", "weights_at"))
    keys = ["dataset", "method", "seed", "step"]
    for ax, name in zip(axes[:2], ("people_4", "people_16"), strict=True):
        plotting.log_axis(ax, "xy")
        ax.set(title=plotting.label(name), xlabel="weights", ylabel="relative error" if ax is axes[0] else "")
        if errors.empty or not (errors["dataset"] == name).any():
            plotting.empty(ax)
            continue
        both = errors.merge(weights, on=keys, suffixes=("", "_of"))
        plotting.series(ax, both[both["dataset"] == name], "value_of", "value")
        shape = records.loc[records["dataset"] == name, "dataset.gaussians"].iloc[0]
        plotting.reference(ax, x=43 * shape * int(name.split("_")[1]), text="all attributes")
    plotting.log_axis(axes[2], "xy")
    if errors.empty or not (errors["method"] == "cp").any():
        plotting.empty(axes[2])
    else:
        plotting.series(axes[2], errors[errors["method"] == "cp"], "step", "value", by="dataset")
        axes[2].set(title="CP", xlabel="rank R", ylabel="")
        ticks = sorted(errors["step"].unique())
        plotting.log_axis(axes[2], "x", ticks=ticks)
        plotting.legend(axes[2], loc="lower left")  # its colours are people, not formats
        for line in axes[2].lines:
            line.set_label("_people")
    axes[0].set_ylim(bottom=1e-5)
    plotting.legend(fig)
    yield "ranks", fig
