"""How much an observed cell helps on the validation cells: influence by gradient products along training (TracIn).

Oh, Kim, Rossi and Kumar (2021), "Influence-guided Data Augmentation for Neural Tensor Completion", arXiv 2108.10248,
steps 2 and 3, after Pruthi and others (2020), arXiv 2002.08484. With prediction error e_i and last hidden vector z_i of
cell i, the gradient of its loss e_i² / 2 with respect to the weights of the output layer is e_i z_i. The importance of
a training cell is its inner product with the sum over the validation cells, added over epochs t:

    importance_i = Σ_t ⟨e_i^t z_i^t, Σ_v e_v^t z_v^t⟩.

Positive: a step on the cell lowers the validation loss. :class:`OnlineImportance` adds this up while a model trains,
in two numbers a cell; :func:`cell_importance` computes it afterwards from checkpoints, in three variants. The
importance of an entity is the sum of the absolute importance of the cells that contain it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from tensorbench.core.errors import unknown
from tensorbench.decomposition.completion.sparse import SparseTensorData

log = logging.getLogger(__name__)
Variant = Literal["fast", "per_sample", "full"]
VARIANTS = ("fast", "per_sample", "full")


class OnlineImportance:
    """Importance of ``cells`` training cells, accumulated during training: 16 bytes a cell, whatever the epochs.

    The caller says :meth:`start_epoch` with what the validation cells look like before the epoch, :meth:`visit` for
    every mini-batch, and :meth:`keep` where the model is the best so far; ``best`` then is the sum up to that epoch.
    """

    def __init__(self, cells: int, device: torch.device | str = "cpu"):
        self.total = torch.zeros(cells, dtype=torch.float64, device=device)
        self.best = torch.zeros_like(self.total)

    def start_epoch(self, error: Float[Tensor, " v"], hidden: Float[Tensor, "v d"]) -> None:
        self.direction = error @ hidden

    def visit(self, rows: Int[Tensor, " b"], error: Float[Tensor, " b"], hidden: Float[Tensor, "b d"]) -> None:
        self.total[rows] += (error * (hidden @ self.direction)).double()

    def keep(self) -> None:
        self.best.copy_(self.total)


def cell_importance(
    model: nn.Module,
    checkpoints: Sequence[Mapping[str, Tensor]],
    train: SparseTensorData,
    valid: SparseTensorData,
    variant: Variant = "fast",
    batch: int = 4096,
) -> Float[np.ndarray, " n"]:
    """Signed importance of every training cell, summed over ``checkpoints`` (state dictionaries of ``model``).

    Args:
        variant: ``fast`` takes errors and hidden vectors as the gradients of the last layer; ``per_sample`` lets
            torch.func differentiate each cell's loss by the output weights (the same numbers, slowly: a check);
            ``full`` takes all parameters, as one directional derivative per batch, so no gradient per cell is stored.
        batch: training cells at a time.

    Raises:
        ValueError: no checkpoints, an unknown variant, or no cells.
    """
    if variant not in VARIANTS:
        raise ValueError(unknown("variant", str(variant), VARIANTS))
    if not checkpoints:
        raise ValueError("importance is a sum over checkpoints, and there are none; train with keep_checkpoints=True")
    if not len(train) or not len(valid):
        raise ValueError(f"{len(train)} training and {len(valid)} validation cells; at least one of each is needed")
    products = {"fast": _fast, "per_sample": _per_sample, "full": _full}[variant]
    like = next(model.parameters())
    parts = [_tensors(part, like) for part in (train, valid)]
    total = np.zeros(len(train))
    for weights in checkpoints:
        state = {name: value.detach() for name, value in {**dict(model.named_buffers()), **weights}.items()}
        total += products(model, state, *parts, batch).double().cpu().numpy()
    return total


Cells = tuple[Tensor, Tensor]
State = dict[str, Tensor]


def _tensors(data: SparseTensorData, like: Tensor) -> Cells:
    return torch.as_tensor(data.idx, device=like.device), torch.as_tensor(data.val, dtype=like.dtype).to(like.device)


def _predict(model: nn.Module, state: State, idx: Tensor) -> tuple[Tensor, Tensor]:
    return functional_call(model, state, (idx,), {"check": False})


def _batches(cells: Cells, batch: int) -> list[Cells]:
    return list(zip(cells[0].split(batch), cells[1].split(batch), strict=True))


@torch.no_grad()
def _fast(model: nn.Module, state: State, train: Cells, valid: Cells, batch: int) -> Tensor:
    predicted, hidden = _predict(model, state, valid[0])
    direction = (predicted - valid[1]) @ hidden
    out = []
    for idx, val in _batches(train, batch):
        predicted, hidden = _predict(model, state, idx)
        out.append((predicted - val) * (hidden @ direction))
    return torch.cat(out)


def _per_sample(model: nn.Module, state: State, train: Cells, valid: Cells, batch: int) -> Tensor:
    def loss(weight: Tensor, cell: Tensor, value: Tensor) -> Tensor:
        predicted, _ = _predict(model, {**state, "output.weight": weight}, cell[None])
        return 0.5 * (predicted[0] - value) ** 2

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    weight = state["output.weight"]
    direction = torch.stack([gradients(weight, *part).sum(0) for part in _batches(valid, batch)]).sum(0)
    return torch.cat([gradients(weight, *part).flatten(1) @ direction.flatten() for part in _batches(train, batch)])


def _full(model: nn.Module, state: State, train: Cells, valid: Cells, batch: int) -> Tensor:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = {name: state[name] for name in names}

    def loss(changed: State) -> Tensor:
        predicted, _ = _predict(model, {**state, **changed}, valid[0])
        return 0.5 * ((predicted - valid[1]) ** 2).sum()

    direction = grad(loss)(parameters)
    out = []
    for idx, val in _batches(train, batch):
        predicted, change = jvp(
            lambda changed, cells=idx: _predict(model, {**state, **changed}, cells)[0], (parameters,), (direction,)
        )
        out.append((predicted - val) * change)  # ⟨∂(e²/2), direction⟩ = e · (change of the prediction)
    return torch.cat(out).detach()


def entity_mass(
    importance: Float[np.ndarray, " n"], idx: Int[np.ndarray, "n k"], dims: Sequence[int]
) -> list[np.ndarray]:
    """Per mode, the sum of the absolute importance of the cells that contain each entity."""
    if idx.shape != (len(importance), len(dims)):
        raise ValueError(f"idx has shape {idx.shape}; {len(importance)} cells of {len(dims)} modes are expected")
    if not np.isfinite(importance).all():
        raise ValueError("importance has NaN or infinite values; did training diverge?")
    size = np.abs(importance)
    return [np.bincount(column, weights=size, minlength=n) for column, n in zip(idx.T, dims, strict=True)]


def entity_importance(
    importance: Float[np.ndarray, " n"], idx: Int[np.ndarray, "n k"], dims: Sequence[int]
) -> list[np.ndarray]:
    """:func:`entity_mass` normalised to a distribution over the entities of each mode.

    Where all importance is zero, every entity that occurs gets the same probability, with a warning. Raises ValueError
    for no cells.
    """
    if not len(importance):
        raise ValueError("no cells, so no entity has any importance")
    mass = entity_mass(importance, idx, dims)
    if mass[0].sum() == 0:
        log.warning(
            "all %d cells have importance zero; every entity that occurs is taken as equally important", len(idx)
        )
        mass = [(np.bincount(column, minlength=n) > 0).astype(float) for column, n in zip(idx.T, dims, strict=True)]
    return [part / part.sum() for part in mass]


def leave_one_out(
    hidden: Float[Tensor, "n d"],
    val: Float[Tensor, " n"],
    valid_hidden: Float[Tensor, "v d"],
    valid_val: Float[Tensor, " v"],
    cells: Int[np.ndarray, " m"],
    *,
    steps: int = 500,
    lr: float = 1e-2,
) -> Float[np.ndarray, " m"]:
    """Rise of the validation loss (mean squared error) when a cell is left out and the last layer trained anew.

    The hidden vectors stay. Full-batch Adam from zero weights, for all ``cells`` and for the whole set side by side:
    one batched problem, in float64.
    """
    hidden, val, valid_hidden, valid_val = (t.detach().double() for t in (hidden, val, valid_hidden, valid_val))
    hidden, valid_hidden = (torch.nn.functional.pad(t, (0, 1), value=1.0) for t in (hidden, valid_hidden))  # offset
    weight = torch.ones(len(cells) + 1, len(val), dtype=torch.float64)
    weight[torch.arange(len(cells)), torch.as_tensor(cells)] = 0.0
    weight /= weight.sum(1, keepdim=True)
    output = torch.zeros(len(cells) + 1, hidden.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([output], lr=lr)
    for _ in range(steps):
        # The gradient by hand: half the work of recording it.
        output.grad = 2 * (weight * (output.detach() @ hidden.T - val)) @ hidden
        optimiser.step()
    losses = ((output.detach() @ valid_hidden.T - valid_val) ** 2).mean(1)
    return (losses[:-1] - losses[-1]).numpy()


def curvature_influence(
    hidden: Float[Tensor, "n d"],
    val: Float[Tensor, " n"],
    valid_hidden: Float[Tensor, "v d"],
    valid_val: Float[Tensor, " v"],
) -> Float[np.ndarray, " n"]:
    """What :func:`leave_one_out` measures, to first order: the classical influence function of the last layer.

    Least squares on the hidden vectors has the Hessian Zᵀ Z, and leaving out cell i moves the weights by
    (Zᵀ Z)⁻¹ z_i e_i: the gradient product of :func:`cell_importance`, with the curvature that it leaves out.
    """
    hidden, val, valid_hidden, valid_val = (t.detach().double() for t in (hidden, val, valid_hidden, valid_val))
    hidden, valid_hidden = (torch.nn.functional.pad(t, (0, 1), value=1.0) for t in (hidden, valid_hidden))  # offset
    inverse = torch.linalg.pinv(hidden.T @ hidden, hermitian=True)  # units that never fire make it singular
    output = inverse @ (hidden.T @ val)
    toward = valid_hidden.T @ (valid_hidden @ output - valid_val)
    return (2 / len(valid_val) * (hidden @ output - val) * (hidden @ (inverse @ toward))).numpy()
