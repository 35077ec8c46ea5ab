"""A differential equation written once, as a polynomial of derivatives: residual, linearisation, manufactured source.

    F(u)(x) = Σ_t c_t(x) Π_a (∂^a u(x))^{p_ta} = g(x)

``polynomial("u_xx + u_yy + u*(u**2 - 1)", "xy")`` is the Allen-Cahn operator. The unknown is ``u``; ``u_xxy`` is its
derivative twice in x and once in y; everything else are coordinates and numbers. A derivative is named by its
multi-index, the order in each coordinate: ``u_xxy`` of coordinates "xyz" is ``(2, 1, 0)``.

Nothing here knows how derivatives are found: a Gaussian process, nested autograd and finite differences all hand over a
mapping from multi-indices to values, NumPy arrays or torch tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy
import torch

from tensorbench.core.errors import unknown

Index = tuple[int, ...]
_DERIVATIVE = re.compile(r"\bu_([a-z]+)\b")


def _of_numbers_too(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    """A torch function that takes plain numbers as well, such as the 2 of √2."""
    return lambda v: function(v if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=torch.float64))


_TORCH = {
    name: _of_numbers_too(getattr(torch, name))
    for name in (
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "exp",
        "log",
        "sqrt",
        "abs",
        "sign",
    )
}


@dataclass(frozen=True)
class Term:
    """``coefficient · Π (∂^a u)^p``: the coefficient in the coordinates, and (multi-index, power) pairs."""

    coefficient: sympy.Expr
    factors: tuple[tuple[Index, int], ...]


@dataclass(frozen=True)
class PDE:
    """F(u) = Σ of :class:`Term`, in the ``coordinates`` (a letter each)."""

    coordinates: str
    terms: tuple[Term, ...]
    text: str = ""

    @cached_property
    def operators(self) -> tuple[Index, ...]:
        """The multi-indices of all derivatives that occur, the value itself included where it does."""
        return tuple(dict.fromkeys(index for term in self.terms for index, _ in term.factors))

    @property
    def linear(self) -> bool:
        """Whether every term has one derivative to the power of one (terms without ``u`` belong into the source)."""
        return all(sum(power for _, power in term.factors) == 1 for term in self.terms)

    @property
    def order(self) -> int:
        """The highest order of a derivative."""
        return max(sum(index) for index in self.operators)

    @cached_property
    def _symbols(self) -> tuple[sympy.Symbol, ...]:
        return tuple(sympy.Symbol(letter, real=True) for letter in self.coordinates)

    @cached_property
    def _coefficients(self) -> tuple[Callable[..., Any] | float, ...]:
        return tuple(
            float(t.coefficient) if t.coefficient.is_number else lambdified(t.coefficient, self._symbols)
            for t in self.terms
        )

    def _values(self, points: Sequence[Any] | None) -> list[Any]:
        values: list[Any] = []
        for coefficient in self._coefficients:
            if not callable(coefficient):
                values.append(coefficient)
            elif points is None:
                raise ValueError(f"the coefficients of {self.text!r} vary in space: give the points")
            else:
                values.append(coefficient(*points))
        return values

    def residual(self, derivatives: Mapping[Index, Any], source: Any = 0.0, points: Sequence[Any] | None = None) -> Any:
        """F(u) - source from the values of the derivatives.

        Args:
            derivatives: values for every index of :attr:`operators`.
            points: the coordinates, an array each; needed where coefficients vary in space.

        Raises:
            ValueError: a derivative is missing, or points are needed.
        """
        _need(self.operators, derivatives)
        total: Any = 0.0
        for value, term in zip(self._values(points), self.terms, strict=True):
            product = value
            for index, power in term.factors:
                product = product * (derivatives[index] if power == 1 else derivatives[index] ** power)
            total = total + product
        return total - source

    def linearise(self, derivatives: Mapping[Index, Any], points: Sequence[Any] | None = None) -> dict[Index, Any]:
        """∂F/∂(∂^a u) for every multi-index a at the given derivatives: the coefficients of the linearised operator."""
        _need(self.operators, derivatives)
        result: dict[Index, Any] = dict.fromkeys(self.operators, 0.0)
        for value, term in zip(self._values(points), self.terms, strict=True):
            for index, power in term.factors:
                product = value * power
                for other, exponent in term.factors:
                    exponent -= other == index
                    if exponent:
                        product = product * derivatives[other] ** exponent
                result[index] = result[index] + product
        return result

    def apply(self, solution: sympy.Expr | str) -> sympy.Expr:
        """F(solution) as an expression: the source that makes it a solution."""
        u = _parse(solution, self.coordinates)
        total = sympy.Integer(0)
        for term in self.terms:
            product = term.coefficient
            for index, power in term.factors:
                orders = [(s, n) for s, n in zip(self._symbols, index, strict=True) if n]
                product = product * (sympy.diff(u, *orders) if orders else u) ** power
            total = total + product
        return total


@dataclass(frozen=True)
class Manufactured:
    """A solution that was chosen, and the source that goes with it.

    ``solution(x, y, …)`` and ``source(x, y, …)`` take NumPy arrays or torch tensors, one a coordinate, and broadcast.
    """

    pde: PDE
    expression: sympy.Expr
    solution: Callable[..., Any]
    source: Callable[..., Any]

    def derivative(self, index: Index) -> Callable[..., Any]:
        """The exact derivative of the solution."""
        symbols = self.pde._symbols
        orders = [(s, n) for s, n in zip(symbols, index, strict=True) if n]
        return lambdified(sympy.diff(self.expression, *orders) if orders else self.expression, symbols)


def polynomial(text: str, coordinates: str) -> PDE:
    """Read an operator such as ``"200*u_x + u_t"`` with coordinates ``"xt"``.

    Raises:
        ValueError: not a polynomial in u and its derivatives, unknown names, or a term without u.
    """
    if not coordinates or len(set(coordinates)) != len(coordinates) or "u" in coordinates:
        raise ValueError(f"coordinates {coordinates!r} must be different letters other than 'u', such as 'xy'")
    names = {"u": (0,) * len(coordinates)}
    for match in _DERIVATIVE.finditer(text):
        for letter in match.group(1):
            if letter not in coordinates:
                raise ValueError(f"{match.group(0)} in {text!r}: {unknown('coordinate', letter, coordinates)}")
        names[match.group(0)] = tuple(match.group(1).count(letter) for letter in coordinates)
    symbols = {name: sympy.Symbol(name, real=True) for name in names}
    expression = sympy.expand(_parse(text, coordinates, symbols))
    generators = list(symbols.values())
    try:
        poly = sympy.Poly(expression, *generators)
    except sympy.PolynomialError as error:
        raise ValueError(f"{text!r} is not a polynomial of u and its derivatives: {error}") from error
    terms = []
    for powers, coefficient in poly.terms():
        merged: dict[Index, int] = {}
        for name, power in zip(names, powers, strict=True):
            if power:
                merged[names[name]] = merged.get(names[name], 0) + power
        if not merged:
            raise ValueError(f"{text!r} has the term {coefficient} without u: move it to the source")
        terms.append(Term(coefficient, tuple(merged.items())))
    return PDE(coordinates, tuple(terms), text)


def manufactured(pde: PDE, solution: sympy.Expr | str) -> Manufactured:
    """Choose the solution of ``pde``, such as ``"sin(6*x)*cos(100*x)"``; the source follows."""
    expression = _parse(solution, pde.coordinates)
    return Manufactured(
        pde, expression, lambdified(expression, pde._symbols), lambdified(pde.apply(expression), pde._symbols)
    )


def poisson(coordinates: str) -> PDE:
    """Δu."""
    return polynomial(" + ".join(f"u_{c}{c}" for c in coordinates), coordinates)


def allen_cahn(coordinates: str) -> PDE:
    """Δu + u(u² - 1)."""
    return polynomial(" + ".join(f"u_{c}{c}" for c in coordinates) + " + u*(u**2 - 1)", coordinates)


def advection(speed: float, coordinates: str = "xy") -> PDE:
    """speed · u_x + u_y: y plays the part of time."""
    x, y = coordinates[0], coordinates[1]
    return polynomial(f"{speed}*u_{x} + u_{y}", coordinates)


def _need(operators: Sequence[Index], derivatives: Mapping[Index, Any]) -> None:
    missing = [index for index in operators if index not in derivatives]
    if missing:
        raise ValueError(f"the derivatives with multi-indices {missing} are missing; got {list(derivatives)}")


def _parse(text: sympy.Expr | str, coordinates: str, extra: Mapping[str, sympy.Symbol] | None = None) -> sympy.Expr:
    symbols = {letter: sympy.Symbol(letter, real=True) for letter in coordinates} | dict(extra or {})
    if isinstance(text, str):
        try:
            expression = sympy.sympify(text, locals=symbols)
        except (sympy.SympifyError, TypeError, SyntaxError) as error:
            raise ValueError(f"{text!r} is not an expression: {error}") from error
    else:
        expression = text
    foreign = {str(s) for s in expression.free_symbols} - set(symbols)
    if foreign:
        raise ValueError(f"{text}: {unknown('name', sorted(foreign)[0], symbols)}")
    return expression.subs({s: symbols[str(s)] for s in expression.free_symbols})


def lambdified(expression: sympy.Expr, symbols: Sequence[sympy.Symbol]) -> Callable[..., Any]:
    """A function of arrays or tensors, of the shape to which its arguments broadcast also where it is constant."""
    on_arrays = sympy.lambdify(symbols, expression, modules="numpy")
    on_tensors = sympy.lambdify(symbols, expression, modules=[_TORCH, "math"])

    def call(*points: Any) -> Any:
        value = (on_tensors if any(isinstance(p, torch.Tensor) for p in points) else on_arrays)(*points)
        return value + sum(0 * p for p in points)

    return call
