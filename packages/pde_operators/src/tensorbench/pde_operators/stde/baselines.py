"""Laplacians by other means, all for ``f``: (points, d) -> (points,), differentiable with respect to parameters.

- :func:`hessian_trace`: backward over backward, one coordinate after the other: what a user writes first.
- :func:`hutchinson`: v · ∇(∇f · v) by forward over backward, one probe after the other.
- :func:`sdgd`: stochastic dimension gradient descent (Hu, Shukla, Karniadakis, Kawaguchi 2023, arXiv 2307.12306): the
  second derivative along each sampled coordinate by backward over backward, in a loop or vmapped.
- :func:`forward_laplacian`: all coordinates in one pass, the 2-jet with its top coefficient summed (Li et al. 2023,
  arXiv 2307.08214).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tensorbench.pde_operators.taylor import jet

Function = Callable[[Any], Any]


def _gradient(f: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return x, gradient


def hessian_trace(f: Function, x: Float[Tensor, "points d"]) -> Float[Tensor, "points"]:
    """Σᵢ ∂ᵢ∂ᵢ f, exact: d backward passes through the gradient's graph."""
    return sdgd(f, x, torch.arange(x.shape[-1]))


def sdgd(f: Function, x: Float[Tensor, "points d"], index: Int[Tensor, "batch"]) -> Float[Tensor, "points"]:
    """(d / batch) Σ_{i in index} ∂ᵢ∂ᵢ f, a backward pass for each."""
    x, gradient = _gradient(f, x)
    total = torch.zeros_like(x[:, 0])
    for i in index.tolist():
        (row,) = torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)
        total = total + row[:, i]
    return x.shape[-1] / len(index) * total


def sdgd_vmapped(f: Function, x: Float[Tensor, "points d"], index: Int[Tensor, "batch"]) -> Float[Tensor, "points"]:
    """The same with all backward passes as one: points × batch × d numbers at once."""
    x, gradient = _gradient(f, x)
    units = x.new_zeros(len(index), 1, x.shape[-1])
    units[torch.arange(len(index)), 0, index] = 1.0
    (rows,) = torch.autograd.grad(gradient, x, units.expand(-1, len(x), -1), create_graph=True, is_grads_batched=True)
    picked = rows.gather(-1, index.reshape(-1, 1, 1).expand(-1, len(x), 1)).squeeze(-1)
    return x.shape[-1] / len(index) * picked.sum(0)


def hutchinson(f: Function, x: Float[Tensor, "points d"], v: Float[Tensor, "probes d"]) -> Float[Tensor, "points"]:
    """Mean of vᵀHv over probes, each by forward over backward."""
    one = torch.func.grad(lambda z: f(z).sum())
    total = torch.zeros_like(x[:, 0])
    for probe in v:
        product = torch.func.jvp(one, (x,), (probe.expand_as(x),))[1]
        total = total + (product * probe).sum(-1)
    return total / len(v)


def hvp_vmapped(f: Function, x: Float[Tensor, "points d"], v: Float[Tensor, "probes d"]) -> Float[Tensor, "points"]:
    """:func:`hutchinson` with all probes at once."""
    one = torch.func.grad(lambda z: f(z).sum())
    products = torch.func.vmap(lambda probe: (torch.func.jvp(one, (x,), (probe.expand_as(x),))[1] * probe).sum(-1))(v)
    return products.mean(0)


def forward_laplacian(f: Function, x: Float[Tensor, "points d"]) -> Float[Tensor, "points"]:
    """Σᵢ ∂ᵢ∂ᵢ f, exact: value, Jacobian and Laplacian of every layer forward, the Jacobian dense from the first layer
    on."""
    units = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).unsqueeze(1)
    return jet(f, x, [units, None], collapse=True)[1][1]


# --- JAX: optional -------------------------------------------------------------------------------------------------


def jax_mlp() -> Callable[[Any, Any], Any]:
    """The same tanh network and boundary factor as a JAX function of (weights, one point): (1 - |x|²) net(x)."""
    import jax.numpy as jnp

    def u(weights: list[Any], x: Any) -> Any:
        h = x
        for k, (W, b) in enumerate(weights):
            h = W @ h + b
            h = jnp.tanh(h) if k < len(weights) - 1 else h
        return (1 - jnp.sum(x * x)) * h[0]

    return u


def jax_laplacian(u: Callable[[Any, Any], Any], kind: str) -> Callable[..., Any]:
    """Jitted mean of squared Laplacian estimates and its gradient in the weights: ``run(weights, x, index)``.

    ``kind``: ``jet`` (jax.experimental.jet along the coordinates ``index``), or ``folx`` (forward Laplacian; ``index``
    is not used).
    """
    import jax
    import jax.numpy as jnp

    if kind == "folx":
        from folx import forward_laplacian as folx_laplacian

        def one(weights: Any, x: Any, index: Any) -> Any:
            return folx_laplacian(lambda z: u(weights, z))(x).laplacian
    else:
        from jax.experimental import jet as jax_jet

        def one(weights: Any, x: Any, index: Any) -> Any:
            def along(i: Any) -> Any:
                v = jnp.zeros_like(x).at[i].set(1.0)
                return jax_jet.jet(lambda z: u(weights, z), (x,), ((v, jnp.zeros_like(x)),))[1][1]

            return x.shape[0] / index.shape[0] * jax.vmap(along)(index).sum()

    def loss(weights: Any, x: Any, index: Any) -> tuple[Any, Any]:
        values = jax.vmap(lambda z: one(weights, z, index))(x)
        return (values**2).mean(), values

    return jax.jit(jax.grad(loss, has_aux=True))
