"""Kronecker statistics of linear and convolutional layers, collected by hooks during ordinary passes.

A layer's weight, its bias appended as a last column, is a matrix W of shape d × p. For a loss that is a mean over
samples its curvature is approximated by the Kronecker product G ⊗ U of

    U = mean over samples (and positions) of a aᵀ        p × p, a the layer's input with a 1 appended
    G = samples · Σ g gᵀ over samples (and positions)    d × d, g the loss's gradient at the layer's output

(Martens and Grosse 2015, arXiv 1503.05671; Grosse and Martens 2016, arXiv 1602.01407 for convolutions, whose input is
each output position's patch, averaged over groups of channels; Eschenhagen et al. 2023, arXiv 2311.00636 for the names
``expand`` and ``reduce`` of the two ways to treat several positions.) With g from the labels of the data this is the
empirical Fisher matrix, with labels drawn from the model's prediction the Fisher matrix itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown

Shared = Literal["expand", "reduce"]
Average = Literal["batch", "batch+positions", "none"]
SUPPORTED: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class LayerStatistics:
    """What one or more passes left for a layer. ``positions`` is 1 for vectors, the output's pixels for images."""

    U: Float[Tensor, "p p"]
    G: Float[Tensor, "d d"]
    samples: int
    positions: int

    def split(self) -> tuple[Float[Tensor, "p p"], Float[Tensor, "d d"]]:
        """(U/positions, G·positions): the same product, shared out as in structured_ngd's and older KFAC code."""
        return self.U / self.positions, self.G * self.positions


def layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that have Kronecker statistics and a weight to train, by their name in the model."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.requires_grad
    }


def unsupported(model: nn.Module) -> list[str]:
    """``name (type)`` of every module with trained parameters of its own that is neither Linear nor Conv2d."""
    covered = {id(p) for module in layers(model).values() for p in module.parameters(recurse=False)}
    return [
        f"{name or 'the model itself'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if any(p.requires_grad and id(p) not in covered for p in module.parameters(recurse=False))
    ]


def matrix_shape(layer: nn.Linear | nn.Conv2d) -> tuple[int, int]:
    """(d, p): outputs, and inputs with the bias's column."""
    return layer.weight.shape[0], layer.weight[0].numel() + (layer.bias is not None)


def to_matrix(weight: Tensor, bias: Tensor | None) -> Float[Tensor, "d p"]:
    """A weight (or its gradient) as a matrix, the bias (or its gradient) as the last column."""
    matrix = weight.flatten(1)
    return matrix if bias is None else torch.cat([matrix, bias[:, None]], dim=1)


def from_matrix(matrix: Float[Tensor, "d p"], layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Undo :func:`to_matrix`: views in the shapes of the layer's weight and bias."""
    if layer.bias is None:
        return matrix.view_as(layer.weight), None
    return matrix[:, :-1].reshape(layer.weight.shape), matrix[:, -1]


def rows_in(layer: nn.Linear | nn.Conv2d, x: Tensor, shared: Shared | None = None) -> Float[Tensor, "rows p"]:
    """The layer's inputs as rows: samples, or samples × positions where ``shared`` is ``expand``.

    Raises:
        ValueError: a Linear layer got more than one position a sample, and ``shared`` was not chosen.
    """
    if isinstance(layer, nn.Conv2d):
        rows = _patches(layer, x)
    elif x.ndim == 1:
        rows = x[None, None]
    else:
        if x.ndim > 2 and shared is None:
            raise ValueError(
                f"a Linear layer got an input of shape {tuple(x.shape)}, several vectors a sample; choose how they "
                "share their weights: shared='expand' (each a row) or shared='reduce' (their mean)"
            )
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
    rows = rows.mean(1) if shared == "reduce" else rows.flatten(0, 1)
    return rows if layer.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def rows_out(layer: nn.Linear | nn.Conv2d, g: Tensor, shared: Shared | None = None) -> Float[Tensor, "rows d"]:
    """Gradients at the layer's output as rows, in the order of :func:`rows_in`; ``reduce`` sums over positions."""
    if isinstance(layer, nn.Conv2d):
        rows = g.flatten(2).transpose(1, 2)
    else:
        rows = g[None, None] if g.ndim == 1 else g.reshape(g.shape[0], -1, g.shape[-1])
    return rows.sum(1) if shared == "reduce" else rows.flatten(0, 1)


def _patches(layer: nn.Conv2d, x: Tensor) -> Float[Tensor, "samples positions p"]:
    x = x.unflatten(1, (layer.groups, -1)).mean(1)
    if isinstance(layer.padding, str):
        total = [
            step * (size - 1) if layer.padding == "same" else 0
            for size, step in zip(layer.kernel_size, layer.dilation, strict=True)
        ]
        sides = [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    else:
        high, wide = layer.padding
        sides = [wide, wide, high, high]
    if any(sides):
        x = F.pad(x, sides) if layer.padding_mode == "zeros" else F.pad(x, sides, mode=layer.padding_mode)
    return F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride).transpose(1, 2)


class KroneckerStatistics:
    """Hooks that collect U and G of every Linear and Conv2d layer whenever a loss is differentiated.

    As a context manager it collects inside the block only::

        with KroneckerStatistics(model) as statistics:
            loss(model, batch).backward()
        statistics["0"].U

    An optimizer instead calls :meth:`attach` once and sets ``collecting`` for the passes that should count. Forward
    passes without gradients (evaluation) never count. Several passes are averaged, weighted by their samples, until
    :meth:`clear`.

    Args:
        shared: how a layer's positions (pixels, tokens) share its weights, see :func:`rows_in`. Convolutions take
            ``expand`` where it is not given; Linear layers with such inputs refuse to guess.
        average: what the loss is a mean over: ``batch``; ``batch+positions`` (a language model's tokens); ``none``
            for a sum over samples. G is scaled accordingly, so that it is the mean over samples of their own gradients'
            products.
        dtype: in which the products are formed and kept; that of the layer's weight where it is not given.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        shared: Shared | None = None,
        average: Average = "batch",
        dtype: torch.dtype | None = None,
    ) -> None:
        if shared not in (None, "expand", "reduce"):
            raise ValueError(unknown("way to share weights", str(shared), ["expand", "reduce"]))
        if average not in ("batch", "batch+positions", "none"):
            raise ValueError(unknown("average", str(average), ["batch", "batch+positions", "none"]))
        self.layers = layers(model)
        if not self.layers:
            raise ValueError(
                f"{type(model).__name__} has no trained Linear or Conv2d layer; it has {unsupported(model)}"
            )
        self.shared, self.average, self.dtype = shared, average, dtype
        self.collecting = False
        self._sums: dict[str, LayerStatistics] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self) -> None:
        """Install the hooks; they do nothing until ``collecting`` is true."""
        if not self._handles:
            self._handles = [module.register_forward_hook(self._hook(name)) for name, module in self.layers.items()]

    def detach(self) -> None:
        """Remove the hooks; what was collected stays."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.collecting = [], False

    def clear(self) -> None:
        """Forget what was collected."""
        self._sums.clear()

    def __enter__(self) -> KroneckerStatistics:
        self.attach()
        self.collecting = True
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __getitem__(self, name: str) -> LayerStatistics:
        if name not in self.layers:
            raise KeyError(unknown("layer", name, self.layers))
        if name not in self._sums:
            raise KeyError(
                f"layer {name!r} has no statistics yet; run forward and backward with gradients enabled inside "
                "`with KroneckerStatistics(model) as statistics:` (or while `collecting` is true)"
            )
        return self._sums[name]

    def _hook(self, name: str) -> Callable[..., None]:
        def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self.collecting and torch.is_grad_enabled() and output.requires_grad:
                # A tensor's hook, not the module's: it survives an activation that works in place on the output.
                x = inputs[0].detach()
                output.register_hook(lambda g: self._add(name, x, g.detach()))

        return forward

    @torch.no_grad()
    def _add(self, name: str, x: Tensor, g: Tensor) -> None:
        if not self.collecting:
            return
        layer = self.layers[name]
        dtype = self.dtype or layer.weight.dtype
        a, e = rows_in(layer, x.to(dtype), self.shared), rows_out(layer, g.to(dtype), self.shared)
        samples = 1 if g.ndim == 1 else g.shape[0]
        positions = g[0].numel() // layer.weight.shape[0] if g.ndim > 1 else 1
        terms = {"batch": samples, "batch+positions": samples * positions, "none": 1 / samples}[self.average]
        new = LayerStatistics(a.T @ (a / len(a)), e.T @ (e * terms), samples, positions)
        if (old := self._sums.get(name)) is not None:
            share = samples / (old.samples + samples)
            new = LayerStatistics(
                torch.lerp(old.U, new.U, share), torch.lerp(old.G, new.G, share), old.samples + samples, positions
            )
        self._sums[name] = new


def dense(statistics: KroneckerStatistics, names: Iterable[str] | None = None) -> dict[str, Float[Tensor, "dp dp"]]:
    """G ⊗ U of each layer as one matrix over the rows of W, for tests and small models."""
    return {name: torch.kron(statistics[name].G, statistics[name].U) for name in names or statistics.layers}
