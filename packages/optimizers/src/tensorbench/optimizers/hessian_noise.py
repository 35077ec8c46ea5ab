"""How much the Hessians of single samples differ: the one number Pσ² of the random-matrix model of batches.

With Hᵢ the Hessian of sample i, H their mean over N samples and P parameters,

    Pσ² = 1/P · 1/(N-1) · Σᵢ |Hᵢ - H|²_F,

so that a batch of b samples drawn without replacement has |H_b - H|²_F / P = Pσ²(1/b - 1/N) on average. No matrix is
formed: |A|²_F is the mean of |Av|² over v ~ N(0, I), and the mean of |Hᵢv - Hⱼv|²/2 over pairs of different samples is
the variance over samples. :func:`noise_from_batches` measures the same number from batches. The model is that of
Granziol, Zohren & Roberts (2022, arXiv 2006.09092). In real networks the entries are neither independent nor of one
variance, so that eigenvalues move further than this number says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from .autodiff import Loss
from .flat import flatten, trainable, unflatten
from .linops import Estimate, LinearOperator
from .probes import gaussian
from .random_matrices import noise_variance

Products = Callable[[Tensor], Tensor]  # v (d) to the products of all samples' matrices with it, (samples, d)


def sample_products(model: nn.Module, loss: Loss, batch: Any) -> Products:
    """v ↦ Hᵢv for every sample i of the batch (a tuple of tensors with one entry a sample each)."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    params = trainable(model)
    values = tuple(p.detach() for p in params)

    def one(vectors: tuple[Tensor, ...], *sample: Tensor) -> tuple[Tensor, ...]:
        entry = tuple(t[None] for t in sample)

        def alone(*given: Tensor) -> Tensor:
            held = dict(zip(names, given, strict=True))
            return loss(lambda *inputs, **more: functional_call(model, held, inputs, more), entry)

        gradient = torch.func.grad(alone, argnums=tuple(range(len(values))))
        return torch.func.jvp(gradient, values, vectors)[1]

    many = torch.func.vmap(one, in_dims=(None, *[0] * len(batch)))

    def products(v: Tensor) -> Tensor:
        parts = many(tuple(unflatten(v, params)), *batch)
        return torch.cat([part.reshape(len(batch[0]), -1) for part in parts], dim=1)

    return products


def noise_of_products(
    products: Products, like: Float[Tensor, " d"], probes: int, generator: torch.Generator
) -> Estimate:
    """Pσ² from the products of all samples' matrices with Gaussian probes; the error is that of the probes."""
    if probes < 1:
        raise ValueError(f"probes {probes} must be at least 1")
    found = []
    for _ in range(probes):
        rows = products(gaussian(like, generator))
        if len(rows) < 2:
            raise ValueError("the variance over samples needs at least two samples")
        found.append((rows - rows.mean(0)).square().sum() / (len(rows) - 1) / rows.shape[1])
    return Estimate.of(torch.stack(found))


def hessian_noise(
    model: nn.Module,
    loss: Loss,
    data: tuple[Tensor, ...],
    probes: int,
    generator: torch.Generator,
    pairs: int | None = None,
) -> Estimate:
    """Pσ² of a model on all its data.

    Args:
        data: tensors with one entry a sample each; the loss is a mean over samples.
        probes: Gaussian vectors.
        pairs: so many pairs of different samples a probe, instead of all samples.

    Raises:
        ValueError: fewer than two samples, no probes or pairs, or an estimate that is not finite.
    """
    n = len(data[0])
    if n < 2 or probes < 1 or (pairs is not None and pairs < 1):
        raise ValueError(f"{n} samples, {probes} probes and {pairs} pairs: at least 2, 1 and 1 are needed")
    like = flatten([p.detach() for p in trainable(model)])
    if pairs is None:
        estimate = noise_of_products(sample_products(model, loss, data), like, probes, generator)
    else:
        found = []
        for _ in range(probes):
            first = torch.randint(n, (pairs,), generator=generator)
            second = (first + torch.randint(1, n, (pairs,), generator=generator)) % n  # never the first
            v = gaussian(like, generator)
            rows = sample_products(model, loss, tuple(t[torch.cat([first, second])] for t in data))(v)
            found.append((rows[:pairs] - rows[pairs:]).square().sum() / (2 * pairs * len(v)))
        estimate = Estimate.of(torch.stack(found))
    if not 0 <= estimate.value < float("inf"):
        raise ValueError(f"P sigma^2 was estimated as {estimate.value}; the Hessian is not finite on some sample")
    return estimate


def noise_from_batches(
    full: LinearOperator,
    batches: Sequence[LinearOperator],
    b: int,
    N: int,
    probes: int,
    generator: torch.Generator,
) -> Estimate:
    """Pσ² from the Hessians of batches of b out of N samples: mean |H_b v - Hv|²/P over (1/b - 1/N).

    Raises:
        ValueError: no batches, or b = N, where batches say nothing of the noise.
    """
    factor = noise_variance(1.0, b, N)
    if not batches or factor == 0 or probes < 1:
        raise ValueError(f"{len(batches)} batches of {b} out of {N} samples and {probes} probes say nothing of noise")
    found = []
    for _ in range(probes):
        v = gaussian(full.zeros(), generator)
        whole = full @ v
        found.append(torch.stack([((op @ v) - whole).square().sum() for op in batches]).mean() / len(v) / factor)
    return Estimate.of(torch.stack(found))
