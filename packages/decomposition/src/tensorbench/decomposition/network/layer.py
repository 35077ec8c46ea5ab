"""A linear layer whose weight is a tensor network (torch).

Hashemizadeh et al., "Adaptive Learning of Tensor Network Structures" (arXiv 2008.05437), section on classification: the
weight (out × in) is a tensor with the modes ``out_dims + in_dims`` (layout "mps", a vertex for each) or with the modes
``out_k · in_k`` (layout "mpo", a vertex for each pair). Any graph of bonds is allowed, and bonds may grow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import opt_einsum
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .container import TensorNetwork, _labels
from .initial import increase_rank, random_network, structure_matrix

LAYOUTS = ("mps", "mpo")


class TNLinear(nn.Module):
    """y = W x + b with W a tensor network; W is never formed unless that is the cheapest order of contraction.

    Args:
        in_dims, out_dims: factors of the numbers of inputs and outputs; equally many for "mpo".
        layout: "mps" (vertices: the factors of the output, then of the input) or "mpo" (vertex k: output and input k).
        ranks: as in :func:`structure_matrix`; its mode sizes are those of the layout.
        generator: of the cores, which give W unit expected norm; or a seed.
        bias: whether there is a b (zero at first).
        dtype: of the parameters.

    Raises:
        ValueError: unknown layout, dimensions that do not pair up, bad ranks.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        out_dims: Sequence[int],
        layout: str = "mps",
        *,
        ranks: int | Sequence[Sequence[int]] | np.ndarray = 1,
        generator: np.random.Generator | int = 0,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if layout not in LAYOUTS:
            from tensorbench.core.errors import unknown

            raise ValueError(unknown("layout", layout, LAYOUTS))
        self.in_dims, self.out_dims, self.layout = tuple(in_dims), tuple(out_dims), layout
        if layout == "mpo" and len(self.in_dims) != len(self.out_dims):
            raise ValueError(
                f"layout mpo pairs output and input factors, got {len(self.out_dims)} and {len(self.in_dims)}; use mps"
            )
        if layout == "mps":
            dims = self.out_dims + self.in_dims
        else:
            dims = tuple(o * i for o, i in zip(self.out_dims, self.in_dims, strict=True))
        network = random_network(structure_matrix(dims, ranks), np.random.default_rng(generator))
        self.cores = nn.ParameterList([nn.Parameter(torch.tensor(core, dtype=dtype)) for core in network.cores])
        self.bias = nn.Parameter(torch.zeros(math.prod(self.out_dims), dtype=dtype)) if bias else None

    def network(self) -> TensorNetwork:
        """The cores as they are, gradients included."""
        return TensorNetwork(list(self.cores))

    def adjacency(self) -> np.ndarray:
        return self.network().adjacency()

    def num_params(self) -> int:
        """Of the weight; the bias is not counted."""
        return self.network().num_params()

    def weight(self) -> Float[Tensor, "out in"]:
        """The dense weight."""
        full = self.network().full()
        if self.layout == "mpo":
            count = len(self.in_dims)
            pairs = [size for pair in zip(self.out_dims, self.in_dims, strict=True) for size in pair]
            full = full.reshape(pairs).permute(*range(0, 2 * count, 2), *range(1, 2 * count, 2))
        return full.reshape(math.prod(self.out_dims), math.prod(self.in_dims))

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        flat = x.reshape(-1, *self.in_dims)
        ranks = tuple(map(tuple, self.adjacency().tolist()))
        contract, shapes = _contraction(ranks, self.in_dims, self.out_dims, self.layout, len(flat))
        cores = [core.reshape(shape) for core, shape in zip(self.cores, shapes, strict=True)]
        out = contract(flat, *cores).reshape(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias

    @torch.no_grad()
    def increase_rank(
        self, i: int, j: int, generator: np.random.Generator | int, inc: int = 1, noise: float = 1e-6
    ) -> None:
        """``inc`` more on bond (i, j), new slices of relative size ``noise``.

        Cores i and j become new parameters: make the optimiser anew.

        Raises:
            ValueError: i = j, no such vertex, inc < 1 or noise < 0.
        """
        old = TensorNetwork([core.detach().cpu().numpy() for core in self.cores])
        grown = increase_rank(old, i, j, np.random.default_rng(generator), inc, noise)
        for vertex in (i, j):
            core = self.cores[vertex]
            self.cores[vertex] = nn.Parameter(torch.tensor(grown.cores[vertex], dtype=core.dtype, device=core.device))

    @contextmanager
    def only_new(self, model: nn.Module, i: int, j: int, inc: int = 1) -> Iterator[list[nn.Parameter]]:
        """Within, only the last ``inc`` slices of bond (i, j) learn, and nothing else of ``model``.

        Yields the two parameters to be optimised (without weight decay: their old slices get zero gradients).
        """
        before = {parameter: parameter.requires_grad for parameter in model.parameters()}
        for parameter in before:
            parameter.requires_grad_(False)
        chosen, handles = [self.cores[i], self.cores[j]], []
        for core, axis in zip(chosen, (j, i), strict=True):
            new = torch.zeros_like(core)
            new.narrow(axis, core.shape[axis] - inc, inc).fill_(1.0)
            core.requires_grad_(True)
            handles.append(core.register_hook(lambda gradient, new=new: gradient * new))
        try:
            yield chosen
        finally:
            for handle in handles:
                handle.remove()
            for parameter, learns in before.items():
                parameter.requires_grad_(learns)
                parameter.grad = None


@functools.lru_cache(maxsize=256)
def _contraction(
    ranks: tuple[tuple[int, ...], ...], in_dims: tuple[int, ...], out_dims: tuple[int, ...], layout: str, batch: int
) -> tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]:
    """The compiled contraction of (batch, *in_dims) with all cores, and the shapes it wants the cores in."""
    outputs = [("o", k) for k in range(len(out_dims))]
    inputs = [("i", k) for k in range(len(in_dims))]
    terms, shapes = [], []
    for vertex, (shape, labels) in enumerate(_labels(np.array(ranks))):
        term: list = []
        sizes: list[int] = []
        for size, label in zip(shape, labels, strict=True):
            if label >= 0:
                term.append(label)
                sizes.append(size)
            elif layout == "mps":
                term.append((outputs + inputs)[vertex])
                sizes.append(size)
            else:
                term += [outputs[vertex], inputs[vertex]]
                sizes += [out_dims[vertex], in_dims[vertex]]
        terms.append(term)
        shapes.append(tuple(sizes))
    names: dict = {"batch": opt_einsum.get_symbol(0)}
    for term in terms:
        for label in term:
            names.setdefault(label, opt_einsum.get_symbol(len(names)))
    batched = [["batch", *inputs], *terms]
    equation = ",".join("".join(names[x] for x in term) for term in batched)
    equation += "->" + "".join(names[x] for x in ["batch", *outputs])
    expression = opt_einsum.contract_expression(equation, (batch, *in_dims), *shapes, optimize="auto")
    return expression, tuple(shapes)
