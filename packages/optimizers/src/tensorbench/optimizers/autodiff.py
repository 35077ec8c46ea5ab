"""Derivatives of a loss beyond the gradient: products with Hessian, Gauss-Newton matrix, Fisher and third derivative.

A *closure* returns the loss with its graph (no ``backward``). :func:`objective` makes one from (model, loss, batch)
that may also be called with other parameter values, as ``forward_over_reverse`` does. Vectors are lists of tensors with
the shapes of the parameters. ``loss(model, batch)`` calls the model on the inputs in the batch; it is also handed plain
functions in its place, so that the same loss serves for derivatives in the parameters and in the outputs.

- Hessian products: Pearlmutter (1994), as ∇(∇f·v) (reverse over reverse), as the directional derivative of the gradient
  (forward over reverse), or by central differences of the gradient.
- Generalised Gauss-Newton G = Jᵀ H_out J (Schraudolph 2002), J the Jacobian of the outputs.
- Fisher: empirical (1/m) Σ gᵢgᵢᵀ, or with labels averaged over the model's own softmax (equal to G for cross-entropy).

A parameter that the loss does not depend on has derivatives of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from tensorbench.core.errors import unknown

from .flat import check_distinct, flatten, trainable, unflatten

Closure = Callable[..., Tensor]
Loss = Callable[[Any, Any], Tensor]
Method = Literal["double_backward", "forward_over_reverse", "finite_difference"]
METHODS = ("double_backward", "forward_over_reverse", "finite_difference")
LARGEST = 2000  # parameters, for matrices of all pairs


def objective(model: nn.Module, loss: Loss, batch: Any) -> Closure:
    """``closure()`` is the loss at the model's parameters, ``closure(values)`` that at a list of others."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]

    def closure(values: Sequence[Tensor] | None = None) -> Tensor:
        if values is None:
            return loss(model, batch)
        given = dict(zip(names, values, strict=True))
        return loss(lambda *inputs, **more: functional_call(model, given, inputs, more), batch)

    return closure


def grad(loss: Tensor, params: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradients of a scalar; with ``create_graph`` they can be differentiated again.

    Raises:
        ValueError: a parameter stands twice in the list, or the loss has no graph.
    """
    check_distinct(params)
    if not loss.requires_grad:
        raise ValueError("the loss has no graph; return the loss itself, not .item() or .detach()")
    found = torch.autograd.grad(loss, list(params), create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


def hvp_of_grads(
    grads: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """Hessian times vector from gradients made with ``create_graph=True``; their graph stays for the next product."""
    live = [(g, v) for g, v in zip(grads, vectors, strict=True) if g.requires_grad]
    if not live:  # a loss that is linear in the parameters
        return [torch.zeros_like(p) for p in params]
    found = torch.autograd.grad(
        [g for g, _ in live], list(params), [v for _, v in live], retain_graph=True, create_graph=create_graph,
        allow_unused=True,
    )  # fmt: skip
    return [torch.zeros_like(p) if h is None else h for p, h in zip(params, found, strict=True)]


def hvp(
    closure: Closure, params: Sequence[Tensor], vectors: Sequence[Tensor], method: Method = "double_backward"
) -> list[Tensor]:
    """Hessian of the closure's loss times a vector.

    Args:
        method: ``double_backward`` works wherever autograd does; ``forward_over_reverse`` needs less memory and a
            closure of :func:`objective`; ``finite_difference`` needs two gradients and keeps about two thirds of the
            digits (the parameters are moved and put back exactly).

    Raises:
        ValueError: unknown method, shapes that differ, or a closure that cannot be given parameter values.
    """
    _check_vectors(params, vectors)
    if method == "double_backward":
        return hvp_of_grads(grad(closure(), params, create_graph=True), params, vectors)
    if method == "forward_over_reverse":
        values = tuple(p.detach() for p in params)
        try:
            gradient = torch.func.grad(lambda *given: closure(list(given)), argnums=tuple(range(len(values))))
            return list(torch.func.jvp(gradient, values, tuple(v.detach() for v in vectors))[1])
        except TypeError as error:
            raise ValueError(
                "forward_over_reverse evaluates the loss at other parameter values; use objective(model, loss, batch)"
            ) from error
    if method == "finite_difference":
        return _hvp_by_differences(closure, params, vectors)
    raise ValueError(unknown("method of hvp", method, METHODS))


def _hvp_by_differences(closure: Closure, params: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    length = float(torch.stack([v.detach().double().square().sum() for v in vectors]).sum().sqrt())
    if length == 0:
        return [torch.zeros_like(p) for p in params]
    size = float(torch.stack([p.detach().double().square().sum() for p in params]).sum().sqrt())
    step = torch.finfo(params[0].dtype).eps ** (1 / 3) * (1 + size) / length
    kept = [p.detach().clone() for p in params]
    ends = []
    try:
        for sign in (1, -1):
            with torch.no_grad():
                for p, start, v in zip(params, kept, vectors, strict=True):
                    p.copy_(start + sign * step * v)
            ends.append(grad(closure(), params))
    finally:
        with torch.no_grad():
            for p, start in zip(params, kept, strict=True):
                p.copy_(start)
    return [(right - left) / (2 * step) for right, left in zip(*ends, strict=True)]


def ggnvp(model: nn.Module, loss: Loss, batch: Any, vectors: Sequence[Tensor]) -> list[Tensor]:
    """Jᵀ H_out J v at the model's trainable parameters; the loss must call the model once.

    Raises:
        ValueError: shapes that differ, or a loss that does not call the model exactly once.
    """
    params = trainable(model)
    _check_vectors(params, vectors)
    return list(_gauss_newton(model, loss, batch)(tuple(v.detach() for v in vectors)))


def _gauss_newton(model: nn.Module, loss: Loss, batch: Any) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """v ↦ Gv as a function that torch.func can vectorise."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    values = tuple(p.detach() for p in trainable(model))

    def outputs(*given: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def recorded(*inputs: Any, **more: Any) -> Tensor:
            seen.append(functional_call(model, dict(zip(names, given, strict=True)), inputs, more))
            return seen[-1]

        loss(recorded, batch)
        if len(seen) != 1:
            raise ValueError(f"the loss calls the model {len(seen)} times; Gauss-Newton products need exactly one call")
        return seen[0]

    def of_outputs(z: Tensor) -> Tensor:
        return loss(lambda *inputs, **more: z, batch)

    def product(v: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z, jv = torch.func.jvp(outputs, values, v)[:2]
        hjv = torch.func.jvp(torch.func.grad(of_outputs), (z,), (jv,))[1]
        pullback = torch.func.vjp(outputs, *values)[1]
        return pullback(hjv)

    return product


def per_sample_grads(model: nn.Module, loss: Loss, batch: Any) -> Float[Tensor, "m d"]:
    """One gradient a sample: row i is that of the loss on the i-th entry of every tensor in the batch.

    For a loss that is a mean over samples the rows' mean is the gradient of the batch.

    Raises:
        ValueError: the batch is no tuple of tensors of one length, or the model keeps statistics of its batches (batch
            norm in training mode), so that a sample has no gradient of its own.
    """
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else ()
    if not parts or not all(isinstance(t, Tensor) and t.ndim and len(t) == len(parts[0]) for t in parts):
        raise ValueError("per_sample_grads needs a batch that is a tuple of tensors with one entry a sample each")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(f"{name} normalises by its batch: no sample has a gradient of its own; use model.eval()")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    values = [p.detach() for p in trainable(model)]

    def alone(given: list[Tensor], *sample: Tensor) -> Tensor:
        held = dict(zip(names, given, strict=True))
        one = tuple(t[None] for t in sample)
        return loss(lambda *inputs, **more: functional_call(model, held, inputs, more), one)

    grads = torch.func.vmap(torch.func.grad(alone), in_dims=(None, *[0] * len(parts)))(values, *parts)
    return torch.cat([g.reshape(len(parts[0]), -1) for g in grads], dim=1)


def full_hessian(closure: Closure, params: Sequence[Tensor], chunk: int = 128) -> Float[Tensor, "d d"]:
    """The whole Hessian, ``chunk`` rows at a time; symmetric up to rounding.

    Raises:
        ValueError: more than 2000 parameters.
    """
    d = _check_small(params)
    grads = grad(closure(), params, create_graph=True)
    live = [k for k, g in enumerate(grads) if g.requires_grad]
    basis = torch.eye(d, dtype=params[0].dtype, device=params[0].device)
    rows = []
    for some in basis.split(chunk):
        if not live:
            rows.append(torch.zeros_like(some))
            continue
        parts = some.split([p.numel() for p in params], dim=1)
        vectors = [parts[k].reshape(len(some), *params[k].shape) for k in live]
        found = torch.autograd.grad(
            [grads[k] for k in live], list(params), vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        filled = [
            torch.zeros(len(some), p.numel(), dtype=p.dtype, device=p.device) if h is None else h.reshape(len(some), -1)
            for p, h in zip(params, found, strict=True)
        ]
        rows.append(torch.cat(filled, dim=1))
    return torch.cat(rows)


def full_ggn(model: nn.Module, loss: Loss, batch: Any, chunk: int = 64) -> Float[Tensor, "d d"]:
    """The whole Gauss-Newton matrix Jᵀ H_out J.

    Raises:
        ValueError: more than 2000 parameters, or a loss that does not call the model once.
    """
    params = trainable(model)
    d = _check_small(params)
    basis = torch.eye(d, dtype=params[0].dtype, device=params[0].device)
    product = _gauss_newton(model, loss, batch)

    def column(v: Tensor) -> Tensor:
        return flatten(product(tuple(unflatten(v, params))))

    return torch.cat([torch.func.vmap(column)(some) for some in basis.split(chunk)])


def full_fisher(
    model: nn.Module, loss: Loss, batch: Any, kind: Literal["empirical", "softmax"] = "empirical"
) -> Float[Tensor, "d d"]:
    """The whole Fisher matrix of a loss that is a mean over samples.

    Args:
        kind: ``empirical`` takes the batch's labels; ``softmax`` averages over labels drawn from the model, for a batch
            (inputs, labels) and a cross-entropy on the model's scores.

    Raises:
        ValueError: more than 2000 parameters, unknown kind, or a batch without samples (see :func:`per_sample_grads`).
    """
    _check_small(trainable(model))
    if kind == "empirical":
        rows = per_sample_grads(model, loss, batch)
        return rows.T @ rows / len(rows)
    if kind != "softmax":
        raise ValueError(unknown("kind of Fisher matrix", kind, ("empirical", "softmax")))
    inputs, labels = batch
    with torch.no_grad():
        odds = model(inputs).softmax(-1)
    total = torch.zeros((), dtype=odds.dtype, device=odds.device)
    for label in range(odds.shape[1]):
        rows = per_sample_grads(model, loss, (inputs, torch.full_like(labels, label)))
        total = total + (rows * odds[:, label, None]).T @ rows / len(rows)
    return total


def third_vec(closure: Closure, params: Sequence[Tensor], h: Sequence[Tensor]) -> list[Tensor]:
    """Third derivative applied twice, D³f[h, h]: the gradient of hᵀ ∇²f h with h held fixed."""
    _check_vectors(params, h)
    fixed = [v.detach() for v in h]
    product = hvp_of_grads(grad(closure(), params, create_graph=True), params, fixed, create_graph=True)
    quadratic = torch.stack([(a * b).sum() for a, b in zip(product, fixed, strict=True)]).sum()
    return grad(quadratic, params) if quadratic.requires_grad else [torch.zeros_like(p) for p in params]


def _check_vectors(params: Sequence[Tensor], vectors: Sequence[Tensor]) -> None:
    check_distinct(params)
    shapes = [tuple(p.shape) for p in params], [tuple(v.shape) for v in vectors]
    if shapes[0] != shapes[1]:
        raise ValueError(f"vectors have shapes {shapes[1]}, the parameters {shapes[0]}; unflatten(vector, params)?")


def _check_small(params: Sequence[Tensor]) -> int:
    check_distinct(params)
    d = sum(p.numel() for p in params)
    if d > LARGEST:
        raise ValueError(f"{d} parameters make a matrix of {d} × {d}; above {LARGEST} use products (hvp, ggnvp)")
    return d
