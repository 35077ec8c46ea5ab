"""Tensor programs as data: vectors and Gaussian matrices, and instructions that make new vectors and scalars of them.

The same program is run at a finite width n, with real matrices, and interpreted at infinite width by Monte Carlo
(:mod:`..kets`). Instructions name what they use; they may be written in any order::

    program = Program(
        vectors={"u": 1.0}, matrices={"W": 1.0},
        instructions={"h": MatMul("W", "u"), "x": NonlinMap(torch.tanh, ("h",)), "back": TransposeMatMul("W", "x"),
                      "s": NonlinMap(torch.mul, ("back", "u")), "mean": Avg("s")},
    )
    program.interpret(100_000, generator).scalars["mean"]   # E tanh'(h), which is where W' W comes in

Yang, Littwin: Tensor Programs IVb (2023, arXiv 2308.01814), the language NE-X-OR-T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.optimizers import base

from .kets import GaussianMatrix, Space, bracket, outer_nonlin


@dataclass(frozen=True)
class MatMul:
    """W x."""

    matrix: str
    vector: str


@dataclass(frozen=True)
class TransposeMatMul:
    """W' y."""

    matrix: str
    vector: str


@dataclass(frozen=True)
class NonlinMap:
    """``function(*vectors, *scalars)`` on each coordinate."""

    function: Callable[..., Tensor]
    vectors: tuple[str, ...]
    scalars: tuple[str, ...] = ()


@dataclass(frozen=True)
class Avg:
    """The mean of a vector's coordinates: a scalar."""

    vector: str


@dataclass(frozen=True)
class OuterNonlin:
    """Coordinate a: the mean over b of ``function(*left_a, *right_b, *scalars) vector_b``; the function broadcasts."""

    function: Callable[..., Tensor]
    left: tuple[str, ...]
    right: tuple[str, ...]
    vector: str
    scalars: tuple[str, ...] = ()


Instruction = MatMul | TransposeMatMul | NonlinMap | Avg | OuterNonlin


@dataclass(frozen=True)
class Values:
    """What a program computed: vectors by name (samples, or coordinates), scalars, and the hat parts of products."""

    vectors: dict[str, Float[Tensor, " samples"]]
    scalars: dict[str, Float[Tensor, ""]]
    hats: dict[str, Float[Tensor, " samples"]] = field(default_factory=dict)
    dots: dict[str, Float[Tensor, " samples"]] = field(default_factory=dict)
    _products: dict[str, tuple[GaussianMatrix, int, bool]] = field(default_factory=dict)

    def bracket(self, x: str, y: str) -> float:
        """<x|y>, the mean of the product of two vectors' coordinates."""
        return float(bracket(self._vector(x)[:, None], self._vector(y)[:, None]))

    def partial(self, x: str, wrt: str) -> float:
        """E[dx / dz] where z is the hat part of the product called ``wrt`` (after interpretation only)."""
        if wrt not in self._products:
            raise ValueError(unknown("product", wrt, self._products))
        matrix, number, transpose = self._products[wrt]
        return float(matrix.partial(self._vector(x)[:, None], number, transpose=transpose))

    def _vector(self, name: str) -> Tensor:
        if name not in self.vectors:
            raise ValueError(unknown("vector", name, self.vectors))
        return self.vectors[name]


@dataclass(frozen=True)
class Program:
    """Initial Gaussian vectors and matrices by name with their standard deviations, initial scalars, instructions.

    A matrix has entries N(0, sigma²/n).

    Raises:
        ValueError: a name that nothing declares, that stands for two things, or for a scalar where a vector must be;
            instructions that need each other in a circle; a standard deviation below 0.
    """

    vectors: Mapping[str, float]
    matrices: Mapping[str, float]
    instructions: Mapping[str, Instruction]
    scalars: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = (self.vectors, self.matrices, self.instructions, self.scalars)
        names = [name for group in groups for name in group]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} stands for more than one thing in this program")
        for name, std in self.vectors.items():
            base.nonnegative(f"standard deviation of {name!r},", std)
        for name, sigma in self.matrices.items():
            base.positive(f"sigma of {name!r},", sigma)
        averages = [name for name, one in self.instructions.items() if isinstance(one, Avg)]
        vectors = [*self.vectors, *(name for name in self.instructions if name not in averages)]
        scalars = [*self.scalars, *averages]
        for name, one in self.instructions.items():
            used, numbers = _needs(one)
            for kind, wanted, declared in (("vector", used, vectors), ("scalar", numbers, scalars)):
                for other in wanted:
                    if other not in declared:
                        raise ValueError(f"{name!r} uses an undeclared {kind}: {unknown(kind, other, declared)}")
            if isinstance(one, (MatMul, TransposeMatMul)) and one.matrix not in self.matrices:
                raise ValueError(
                    f"{name!r} multiplies by an undeclared matrix: {unknown('matrix', one.matrix, self.matrices)}"
                )
        self.order()

    def order(self) -> list[str]:
        """The instructions' names such that each comes after what it uses."""
        graph = {
            name: [other for group in _needs(one) for other in group if other in self.instructions]
            for name, one in self.instructions.items()
        }
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise ValueError(f"the program is cyclic: {' -> '.join(reversed(error.args[1]))}") from None

    def interpret(self, samples: int, generator: torch.Generator, *, copies: int | None = None) -> Values:
        """The limit of infinite width, from ``samples`` samples; ``copies`` as for :func:`..kets.outer_nonlin`."""
        space = Space(samples, generator)
        matrices = {name: space.matrix(sigma) for name, sigma in self.matrices.items()}
        values = Values({name: space.vector(1, std)[:, 0] for name, std in self.vectors.items()}, self._start())
        counts: dict[tuple[str, bool], int] = {}

        def multiply(name: str, one: MatMul | TransposeMatMul) -> Tensor:
            transpose = isinstance(one, TransposeMatMul)
            matrix = matrices[one.matrix]
            made = (matrix.transpose_matmul if transpose else matrix.matmul)(values.vectors[one.vector][:, None])
            number = counts.get((one.matrix, transpose), 0)
            counts[one.matrix, transpose] = number + 1
            values._products[name] = (matrix, number, transpose)
            values.hats[name], values.dots[name] = made.hat[:, 0], made.dot[:, 0]
            return made.ket[:, 0]

        return self._execute(values, multiply, copies)

    def run(self, width: int, generator: torch.Generator) -> Values:
        """The program with vectors of ``width`` coordinates and real matrices (float64)."""
        base.whole("width", width)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        values = Values({name: std * normal(width) for name, std in self.vectors.items()}, self._start())
        matrices = {name: sigma * width**-0.5 * normal(width, width) for name, sigma in self.matrices.items()}

        def multiply(name: str, one: MatMul | TransposeMatMul) -> Tensor:
            matrix = matrices[one.matrix]
            return (matrix.T if isinstance(one, TransposeMatMul) else matrix) @ values.vectors[one.vector]

        return self._execute(values, multiply, None)

    def _start(self) -> dict[str, Tensor]:
        return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in self.scalars.items()}

    def _execute(self, values: Values, multiply: Callable[..., Tensor], copies: int | None) -> Values:
        vectors, scalars = values.vectors, values.scalars
        for name in self.order():
            one = self.instructions[name]
            if isinstance(one, Avg):
                scalars[name] = vectors[one.vector].mean()
            elif isinstance(one, NonlinMap):
                vectors[name] = one.function(*(vectors[v] for v in one.vectors), *(scalars[s] for s in one.scalars))
            elif isinstance(one, OuterNonlin):
                vectors[name] = _outer(one, values, copies)
            else:
                vectors[name] = multiply(name, one)
        return values


def _needs(one: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of vectors and of scalars that an instruction uses."""
    if isinstance(one, NonlinMap):
        return one.vectors, one.scalars
    if isinstance(one, OuterNonlin):
        return (*one.left, *one.right, one.vector), one.scalars
    return (one.vector,), ()


def _outer(one: OuterNonlin, values: Values, copies: int | None) -> Tensor:
    numbers = [values.scalars[s] for s in one.scalars]

    def psi(left: Tensor, right: Tensor) -> Tensor:
        return one.function(*(x[:, None] for x in left.T), *(y[None, :] for y in right.T), *numbers)

    left, right = (torch.stack([values.vectors[v] for v in names], 1) for names in (one.left, one.right))
    return outer_nonlin(psi, left, right, values.vectors[one.vector][:, None], copies)[:, 0]
