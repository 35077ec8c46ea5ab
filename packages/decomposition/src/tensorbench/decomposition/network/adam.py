"""Gradient fit of a tensor network with Adam, all restarts in one contraction.

The evaluation of Li et al. (arXiv 2304.12875): Adam with learning rate 1e-3 on the relative squared error, at most
10 000 steps, stop below 1e-8. Any differentiable loss on the full tensor works as well (``loss=``), which is what the
structure learners of completion and of neural layers need.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import opt_einsum
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .alternating import Fit, check_target
from .container import TensorNetwork, _labels
from .initial import check_structure, random_network


def fit_adam(
    target: Float[np.ndarray, ...],
    ranks: np.ndarray,
    *,
    generator: np.random.Generator,
    start: TensorNetwork | None = None,
    repeats: int = 2,
    mask: Bool[np.ndarray, ...] | None = None,
    max_steps: int = 10_000,
    lr: float = 1e-3,
    tol: float = 1e-8,
    check_every: int = 50,
    loss: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Fit:
    """Fit all cores at once; the best of ``repeats`` restarts (they share each contraction along a batch axis).

    Args:
        target: N-way array.
        ranks: structure matrix, bonds off the diagonal, mode sizes on it.
        generator: randomness of the restarts (they start at unit norm; the target is divided by its norm).
        start: a network for the first restart.
        mask: True where observed.
        loss: maps the batch of full tensors (repeats, *shape), at the scale of target / norm, to one loss per restart;
            default the relative squared error. ``rse`` and ``history`` of the result hold this loss.
        tol: stop when a restart is below it; looked at every ``check_every`` steps.
        device: where to compute.

    Raises:
        ValueError: bad target, mask or structure.
    """
    target, mask, norm = check_target(target, mask)
    ranks = check_structure(ranks)
    if tuple(np.diag(ranks)) != target.shape:
        raise ValueError(f"structure has mode sizes {tuple(np.diag(ranks).tolist())}, target has shape {target.shape}")
    if max_steps < 1 or repeats < 1 or lr <= 0:
        raise ValueError(f"max_steps, repeats >= 1 and lr > 0, got {max_steps}, {repeats}, {lr}")
    networks = random_network(ranks, generator, batch=repeats)
    if start is not None:
        scaled = [np.asarray(start.cores[0]) / norm, *map(np.asarray, start.cores[1:])]
        networks[0] = TensorNetwork(scaled)

    labels = _labels(ranks)
    cores = [
        torch.tensor(
            np.stack([np.asarray(net.cores[i]).reshape(shape) for net in networks]), device=device, requires_grad=True
        )
        for i, (shape, _) in enumerate(labels)
    ]
    contract = _batched(labels, repeats)
    wanted = torch.tensor(target / norm, device=device)
    seen = None if mask is None else torch.tensor(mask, device=device)

    def relative_error(full: Tensor) -> Tensor:
        error = full - wanted if seen is None else (full - wanted) * seen
        return error.square().flatten(1).sum(1)

    measure = loss or relative_error
    optimiser = torch.optim.Adam(cores, lr=lr)
    history: list[np.ndarray] = []
    best, best_cores = np.inf, [core.detach().clone() for core in cores]
    converged = False
    for step in range(max_steps + 1):
        losses = measure(contract(*cores).reshape(repeats, *target.shape))
        if step % check_every == 0 or step == max_steps:
            history.append(losses.detach().cpu().numpy())
            if np.nanmin(history[-1]) < best:
                best = float(np.nanmin(history[-1]))
                best_cores = [core[int(np.nanargmin(history[-1]))].detach().clone() for core in cores]
            if best < tol:
                converged = True
                break
        if step < max_steps:
            optimiser.zero_grad(set_to_none=True)
            losses.sum().backward()  # restarts do not share parameters: one backward pass serves all
            optimiser.step()
    out = [core.cpu().numpy().reshape(tuple(ranks[i])) for i, core in enumerate(best_cores)]
    out[0] = out[0] * norm
    return Fit(network=TensorNetwork(out), rse=best, history=np.array(history), converged=converged)


def _batched(labels: list[tuple[tuple[int, ...], tuple[int, ...]]], repeats: int) -> Callable[..., Tensor]:
    names = {label: opt_einsum.get_symbol(1 + k) for k, label in enumerate(sorted({x for _, ls in labels for x in ls}))}
    batch = opt_einsum.get_symbol(0)
    terms = [batch + "".join(names[x] for x in ls) for _, ls in labels]
    equation = ",".join(terms) + "->" + batch + "".join(names[-1 - i] for i in range(len(labels)))
    return opt_einsum.contract_expression(equation, *((repeats, *shape) for shape, _ in labels), optimize="auto")
