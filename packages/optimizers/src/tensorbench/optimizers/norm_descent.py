"""Steepest descent in the norm that fits each tensor's role.

Bernstein, Newhouse (2024, arXiv 2409.20325). With a gradient g, a norm ‖·‖ and a sharpness λ, the step

    argmin_D ⟨g, D⟩ + λ/2 ‖D‖²  =  −(‖g‖†/λ) · argmax_{‖t‖=1} ⟨g, t⟩          (steepest descent)

has a length, the dual norm over λ, and a direction, the norm's. Of a whole network the norm is max_l s_l ‖W_l‖_l
(modular norm), under which every layer moves by the same η over s_l in its own direction:

    D_l = −(η/s_l) · argmax_{‖t‖_l=1} ⟨G_l, t⟩,   η = (1/λ) Σ_k ‖G_k‖†_k / s_k.

``SteepestDescent`` takes either η itself (the learning rate) or λ. ``role_map`` is the table of norms by role: linear
layers RMS → RMS, embeddings ℓ1 → RMS, convolutions by their taps, vectors by root mean square. ``MaxEntry`` everywhere
is sign descent, which is Adam without its averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from .base import Check, Optimizer, check_gradients, checked_loss, nonnegative, positive, share
from .matrix_functions import Method
from .norms import RMS, ConvSpectral, L1ToRMS, MaxEntry, Norm, RMSToRMS, Spectral, Transposed
from .roles import ROLES, Role, roles


def norms_of_roles(method: Method = "svd", steps: int | None = None) -> dict[str, Norm]:
    """The norm of each role, that of convolutions for kernels (out, in, height, width).

    ``method`` and ``steps`` are those of :func:`~.matrix_functions.orthogonalize`.
    """
    matrix = RMSToRMS(method=method, steps=steps)
    return {
        "input": matrix, "hidden": matrix, "output": matrix, "embedding": Transposed(L1ToRMS()),
        "conv": ConvSpectral(method=method, steps=steps), "bias": RMS(), "norm": RMS(),
    }  # fmt: skip


def role_map(
    model: nn.Module,
    *,
    overrides: Mapping[str, Role] | None = None,
    norms: Mapping[str, Norm] | None = None,
    method: Method = "svd",
    steps: int | None = None,
) -> dict[str, Norm]:
    """The norm of every parameter of ``model`` by its name. A weight that modules share appears once.

    A :class:`~.norms.ConvSpectral` is made to fit each kernel: its spatial axes, and whether it is transposed.

    Args:
        overrides: the roles of parameters that :func:`~.roles.roles` gets wrong, by name.
        norms: other norms for some roles.

    Raises:
        ValueError: an unknown role or parameter, a convolution's role for what has no spatial axes.
    """
    table = norms_of_roles(method, steps)
    for role, norm in (norms or {}).items():
        if role not in ROLES:
            raise ValueError(unknown("role", role, ROLES))
        table[role] = norm
    return {name: _fitting(table[role], model, name) for name, role in roles(model, overrides).items()}


def _fitting(norm: Norm, model: nn.Module, name: str) -> Norm:
    """``norm``, or the kind of it that the kernel called ``name`` needs."""
    if not isinstance(norm, ConvSpectral):
        return norm
    module = model.get_submodule(name.rpartition(".")[0])
    spatial = model.get_parameter(name).ndim - 2
    if not isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return replace(norm, spatial=spatial)
    return replace(norm, spatial=spatial, transposed=True, groups=module.groups)


def spectral_map(model: nn.Module, *, method: Method = "svd", steps: int | None = None) -> dict[str, Norm]:
    """RMS → RMS for every tensor of two or more axes, whatever its role, and root mean square for vectors."""
    matrix = RMSToRMS(method=method, steps=steps, flatten=True)
    return {name: RMS() if p.ndim < 2 else matrix for name, p in model.named_parameters()}


def norm_init(W: Float[Tensor, "..."], norm: Norm, generator: torch.Generator | None = None) -> Float[Tensor, "..."]:
    """Fill W with the direction of a Gaussian tensor, so that ‖W‖ = 1 with as many directions at it as there can be.

    Under RMS → RMS that is a semi-orthogonal matrix times √(out/in), under ℓ1 → RMS columns of unit root mean square.
    """
    with torch.no_grad():
        sample = torch.randn(W.shape, generator=generator, dtype=torch.float32).to(W.device, W.dtype)
        return W.copy_(norm.lmo(sample))


def dualize(gradients: Sequence[Float[Tensor, "..."]], norms: Sequence[Norm]) -> list[Float[Tensor, "..."]]:
    """The direction of every gradient under its norm. Matrices of one shape and norm are dealt with in one batch."""
    if len(gradients) != len(norms):
        raise ValueError(f"{len(gradients)} gradients and {len(norms)} norms; give one norm a gradient")
    found: list[Tensor | None] = [None] * len(gradients)
    alike: dict[Any, list[int]] = {}
    for number, (g, norm) in enumerate(zip(gradients, norms, strict=True)):
        if norm.batched and g.ndim == norm.axes:
            alike.setdefault((norm, g.shape, g.dtype, g.device), []).append(number)
        else:
            found[number] = norm.lmo(g)
    for (norm, *_), numbers in alike.items():
        if len(numbers) == 1:
            found[numbers[0]] = norm.lmo(gradients[numbers[0]])
            continue
        for number, step in zip(numbers, norm.lmo(torch.stack([gradients[n] for n in numbers])), strict=True):
            found[number] = step
    return found  # type: ignore[return-value]


@dataclass(frozen=True)
class ModularNorm:
    """max_l s_l ‖W_l‖_l of a network whose layers are (name, norm, scale s_l).

    Raises:
        ValueError: a scale that is not positive, no layer, or two of one name.
    """

    layers: tuple[tuple[str, Norm, float], ...]

    def __init__(self, layers: Iterable[tuple[str, Norm, float]]) -> None:
        object.__setattr__(self, "layers", tuple(layers))
        if not self.layers or len({name for name, *_ in self.layers}) != len(self.layers):
            raise ValueError("a modular norm needs at least one layer, and each layer once")
        for name, _, scale in self.layers:
            positive(f"the scale of {name!r}", scale)

    def value(self, W: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """max_l s_l ‖W_l‖_l."""
        return torch.stack([scale * norm.value(W[name]) for name, norm, scale in self.layers]).amax()

    def dual(self, G: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Σ_l ‖G_l‖†_l / s_l."""
        return torch.stack([norm.dual(G[name]) / scale for name, norm, scale in self.layers]).sum()

    def steepest(self, G: Mapping[str, Tensor], sharpness: float) -> dict[str, Tensor]:
        """The D that minimises Σ_l ⟨G_l, D_l⟩ + sharpness/2 · ‖D‖²."""
        positive("sharpness", sharpness)
        directions = dualize([G[name] for name, *_ in self.layers], [norm for _, norm, _ in self.layers])
        names, scales = [name for name, *_ in self.layers], [scale for *_, scale in self.layers]
        length = sum((d * G[name]).sum() / s for name, d, s in zip(names, directions, scales, strict=True)) / sharpness
        return {name: -length / s * d for name, d, s in zip(names, directions, scales, strict=True)}


class SteepestDescent(Optimizer):
    """Steepest descent under max_l s_l ‖W_l‖_l, one norm a parameter.

    Args:
        params: ``model.named_parameters()`` with a map of norms by name, or parameters (or groups) with one norm.
        norm_map: by name, as :func:`role_map` makes it, or one norm for all.
        lr: η. With ``sharpness`` it multiplies η = Σ_l ‖G_l‖†_l / (s_l λ) and is 1 unless it is given, else 0.02.
        sharpness: λ of the quadratic bound that the step minimises.
        momentum: β of m ← β m + (1 − β) g, whose direction is then taken; ``nesterov`` takes that of
            β m + (1 − β) g with the new m.
        weight_decay: decoupled, W ← (1 − lr · weight_decay) W before the step.
        scales: s_l by name where they are not 1.

    Raises:
        ValueError: numbers outside their range, a parameter without a norm, one that the norm is not of.
    """

    checks: ClassVar[Mapping[str, Check]] = {
        "lr": positive,
        "momentum": share,
        "weight_decay": nonnegative,
        "sharpness": lambda name, value: None if value is None else positive(name, value),
    }

    def __init__(
        self,
        params: Iterable[Any],
        norm_map: Mapping[str, Norm] | Norm,
        lr: float | None = None,
        sharpness: float | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        lr = (1.0 if sharpness is not None else 0.02) if lr is None else lr
        if nesterov and momentum == 0:
            raise ValueError("nesterov needs momentum > 0")
        self._norm_map, self._scale_map = norm_map, dict(scales or {})
        self._norms: dict[Tensor, Norm] = {}
        self._scales: dict[Tensor, float] = {}
        defaults = {
            "lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "sharpness": sharpness,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Numbers as everywhere; then every parameter gets its norm and scale."""
        super()._check_group(group)
        names = group.get("param_names", [None] * len(group["params"]))
        for name, p in zip(names, group["params"], strict=True):
            self._norms[p] = self._norm_of(name, self._norm_map)
            self._norms[p].check(p.detach())
            self._scales[p] = positive(f"the scale of {name!r}", self._scale_map.get(name, 1.0))

    @staticmethod
    def _norm_of(name: str | None, norm_map: Mapping[str, Norm] | Norm) -> Norm:
        if isinstance(norm_map, Norm):
            return norm_map
        if name is None:
            raise ValueError("a map of norms goes by name: pass model.named_parameters(), or one norm for all")
        if name not in norm_map:
            raise ValueError(unknown("norm of parameter", name, list(norm_map)))
        return norm_map[name]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; see :mod:`~.base` for the closure."""
        loss = None if closure is None else checked_loss(closure)
        check_gradients(p for group in self.param_groups for p in group["params"])
        moving, directions, duals = [], [], []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = self._averaged(params, group)
            steps = dualize(gradients, [self._norms[p] for p in params])
            if group["sharpness"] is not None:
                duals += [(g * d).sum() / self._scales[p] for g, d, p in zip(gradients, steps, params, strict=True)]
            moving.append((group, params))
            directions.append(steps)
        total = float(torch.stack([d.double() for d in duals]).sum()) if duals else 0.0
        for (group, params), steps in zip(moving, directions, strict=True):
            length = group["lr"] * (1.0 if group["sharpness"] is None else total / group["sharpness"])
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            lengths = [self._scales[p] for p in params]
            if all(s == 1 for s in lengths):
                torch._foreach_add_(params, steps, alpha=-length)
            else:
                for p, d, s in zip(params, steps, lengths, strict=True):
                    p.add_(d, alpha=-length / s)
        return loss

    def _averaged(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        gradients: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        beta = group["momentum"]
        if beta == 0:
            return gradients
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        averages = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(averages, gradients, 1 - beta)
        if not group["nesterov"]:
            return averages
        return list(torch._foreach_lerp(gradients, averages, beta))


class SignDescent(SteepestDescent):
    """W ← W − lr · sign(G): steepest descent under the largest entry. Adam with β₁ = β₂ = ε = 0 is the same."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, **options: Any) -> None:
        super().__init__(params, MaxEntry(), lr, **options)


class SpectralDescent(SteepestDescent):
    """W ← W − lr · U Vᵀ for matrices, and kernels as matrices (out, rest): Shampoo without its averages."""

    def __init__(self, params: Iterable[Any], lr: float = 0.02, norm: Spectral | None = None, **options: Any) -> None:
        super().__init__(params, norm or Spectral(flatten=True), lr, **options)


def modular(
    model: nn.Module, lr: float = 0.1, *, method: Method = "polar_express", steps: int | None = 5, **options: Any
) -> SteepestDescent:
    """The recipe in one call: the norms of ``role_map``, one learning rate for all layers, momentum 0.95."""
    options = {"momentum": 0.95, **options}
    return SteepestDescent(model.named_parameters(), role_map(model, method=method, steps=steps), lr, **options)
