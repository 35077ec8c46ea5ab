"""What perceptrons compute at infinite width while an entrywise rule (sign, Adam, ...) trains them.

Two limits, for any number of hidden layers, by Monte Carlo over :mod:`..kets`:

- *maximal update* (``mup_adam``): neurons move as independent particles, features are learned, and matrices between
  hidden layers act through their hat and dot parts and through the nonlinear outer products of all past updates;
- *operator* (``ntp_adam``): features are frozen, and f_{t+1}(xi) = f_t(xi) - lr sum over layers of
  E[Q_t(sum_i chi_i dh_i x_i, ...) dh(xi) x(xi)]. For Q = identity this is the tangent kernel; for any other it is not
  linear in the errors chi, hence an operator.

The loss is half the squared error, its mean over samples. Widths count in multiples of 1 (``base=1`` in
:class:`..models.AbcdMLP`), with weights of the standard deviations ``Arch.stds`` before the powers of n.

Yang, Littwin: Tensor Programs IVb (2023, arXiv 2308.01814), the maximal update and the neural tangent limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.optimizers import base

from .abcd import ABCD
from .kets import Product, Space, bracket, outer_nonlin
from .models import AbcdMLP, abcd_param_groups, activation
from .updates import Entrywise, EntrywiseUpdate, Identity, Memory


@dataclass(frozen=True)
class Arch:
    """A perceptron: sizes of input and output, hidden layers, activation, and a standard deviation a layer."""

    inputs: int
    hidden: int = 1
    outputs: int = 1
    activation: str = "tanh"
    stds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("inputs", "hidden", "outputs"):
            base.whole(name, getattr(self, name))
        activation(self.activation)
        if not self.stds:
            object.__setattr__(self, "stds", (self.inputs**-0.5, *[1.0] * self.hidden))
        if len(self.stds) != self.hidden + 1:
            raise ValueError(f"{len(self.stds)} stds for {self.hidden + 1} layers")

    def phi(self, h: Tensor) -> Tensor:
        return activation(self.activation)(h)

    def slope(self, h: Tensor) -> Tensor:
        """The activation's derivative."""
        with torch.enable_grad():
            at = h.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.phi(at).sum(), at)
        return found


@dataclass(frozen=True)
class Problem:
    """Training inputs and targets, and further inputs on which predictions are wanted."""

    x: Float[Tensor, "train inputs"]
    y: Float[Tensor, "train outputs"]
    test: Float[Tensor, "test inputs"]

    @property
    def points(self) -> Float[Tensor, "points inputs"]:
        """Training inputs, then the others: the order of predictions."""
        return torch.cat([self.x, self.test])

    def errors(self, f: Float[Tensor, "points outputs"]) -> Float[Tensor, "train outputs"]:
        """chi: the derivative of the loss for each training output."""
        return (f[: len(self.x)] - self.y) / len(self.x)


Predictions = Float[Tensor, "times points outputs"]


def _step_of(rule: EntrywiseUpdate, count: int, train: int, summed: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """psi of the last of ``count`` updates (or of their sum) of a matrix, from each step's ``train`` pairs of kets."""

    def psi(left: Tensor, right: Tensor) -> Tensor:
        memory: Memory = ()
        total = None
        for a, b in zip(left.split(train, 1), right.split(train, 1), strict=True):
            move, memory = rule.apply(a @ b.T, memory)
            total = move if total is None or not summed else total + move
        assert total is not None and left.shape[1] == count * train
        return total

    return psi


@torch.no_grad()
def limit_mup_adam(
    arch: Arch,
    problem: Problem,
    rule: EntrywiseUpdate,
    *,
    lr: float,
    steps: int,
    samples: int = 100_000,
    generator: torch.Generator,
    copies: int = 1000,
    dots: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Predictions:
    """f_0, ..., f_steps in the maximal update limit.

    Args:
        samples, copies: of the Monte Carlo; the error is of the order of samples^-1/2.
        dots: without the dot parts of products (for comparison; that is not the limit).

    Raises:
        ValueError: fewer than 0 steps, too few samples for the number of kets, a learning rate that is not positive.
    """
    base.whole("steps", steps, 0), base.positive("lr", lr)
    space, points, train = Space(samples, generator, dtype), problem.points.to(dtype), len(problem.x)
    first = arch.stds[0] * space.vector(arch.inputs)
    last = arch.stds[-1] * space.vector(arch.outputs)
    matrices = [space.matrix(std) for std in arch.stds[1:-1]]
    pasts: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in matrices]
    memories: list[Memory] = [(), ()]

    def part(product: Product) -> Tensor:
        return product.ket if dots else product.hat

    def moved(k: int, z: Tensor, transpose: bool) -> Tensor | float:
        """What all past updates of matrix k do to z."""
        lefts, rights = pasts[k]
        if not lefts:
            return 0.0
        psi = _step_of(rule, len(lefts), train, summed=True)
        left, right = torch.cat(lefts, 1), torch.cat(rights, 1)
        if transpose:
            return -lr * outer_nonlin(lambda a, b: psi(b, a).T, right, left, z, copies)
        return -lr * outer_nonlin(psi, left, right, z, copies)

    found = []
    for step in range(steps + 1):
        h = [first @ points.T]
        x = [arch.phi(h[0])]
        for k, matrix in enumerate(matrices):
            h.append(part(matrix.matmul(x[-1])) + moved(k, x[-1], False))
            x.append(arch.phi(h[-1]))
        found.append(bracket(x[-1], last))
        if step == steps:
            break
        chi = problem.errors(found[-1])
        dh = (last @ chi.T) * arch.slope(h[-1][:, :train])
        new = []
        for k in reversed(range(len(matrices))):
            new.append((k, dh, x[k][:, :train]))
            back = part(matrices[k].transpose_matmul(dh)) + moved(k, dh, True)
            dh = back * arch.slope(h[k][:, :train])
        for k, left, right in new:
            pasts[k][0].append(left)
            pasts[k][1].append(right)
        for place, gradient in enumerate((dh @ points[:train], x[-1][:, :train] @ chi)):
            move, memories[place] = rule.apply(gradient, memories[place])
            if place == 0:
                first = first - lr * move
            else:
                last = last - lr * move
    return torch.stack(found)


class OperatorKernel:
    """The kets of the frozen features of ``arch`` at ``points``, of which the first ``train`` are trained on.

    Calling it with the errors chi_0, ..., chi_t of all steps so far gives sum over layers of
    E[Q_t(g_0, ..., g_t) dh(xi) x(xi)] at each point and output, by which f falls at lr = 1.
    """

    @torch.no_grad()
    def __init__(
        self,
        arch: Arch,
        points: Float[Tensor, "points inputs"],
        train: int,
        *,
        samples: int = 100_000,
        generator: torch.Generator,
        copies: int = 1000,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if not 1 <= train <= len(points):
            raise ValueError(f"train {train} must be between 1 and the number of points, {len(points)}")
        self.arch, self.points, self.train, self.copies = arch, points.to(dtype), train, copies
        space = Space(samples, generator, dtype)
        matrices = [space.matrix(std) for std in arch.stds[1:-1]]
        h = [arch.stds[0] * space.vector(arch.inputs) @ self.points.T]
        self.x = [arch.phi(h[0])]
        for matrix in matrices:
            h.append(matrix.matmul(self.x[-1]).hat)
            self.x.append(arch.phi(h[-1]))
        last = arch.stds[-1] * space.vector(arch.outputs)
        # Backward kets (samples, points · outputs): one for each output at each point. Dot parts vanish, since the
        # output weights are independent of all that comes before them and of mean 0.
        dx = last[:, None, :].expand(-1, len(points), -1).flatten(1)
        self.dh: list[Tensor] = []
        for k in reversed(range(arch.hidden)):
            dh = dx * arch.slope(h[k]).repeat_interleave(arch.outputs, 1)
            self.dh.insert(0, dh)
            if k:
                dx = matrices[k - 1].transpose_matmul(dh).hat

    @torch.no_grad()
    def __call__(
        self, chis: Sequence[Float[Tensor, "train outputs"]], rule: EntrywiseUpdate
    ) -> Float[Tensor, "points outputs"]:
        shape = (self.train, self.arch.outputs)
        if not chis or any(tuple(chi.shape) != shape for chi in chis):
            raise ValueError(
                f"errors of shape {shape} are needed, one for each step so far, got {[tuple(c.shape) for c in chis]}"
            )
        chis = [chi.to(self.points.dtype) for chi in chis]
        inputs = self.points[: self.train]
        x = self.x[-1]
        total = bracket(x, _last(rule, [x[:, : self.train] @ chi for chi in chis]))
        for k, dh in enumerate(self.dh):
            split = dh.unflatten(1, (-1, self.arch.outputs))
            lefts = [torch.einsum("nic,ic->ni", split[:, : self.train], chi) for chi in chis]
            if k == 0:
                moved = _last(rule, [left @ inputs for left in lefts]) @ self.points.T
            else:
                below = self.x[k - 1]
                rights = [below[:, : self.train]] * len(chis)
                psi = _step_of(rule, len(chis), self.train, summed=False)
                moved = outer_nonlin(psi, torch.cat(lefts, 1), torch.cat(rights, 1), below, self.copies)
            total += torch.einsum("npc,np->pc", split, moved) / len(moved)
        return total

    def tangent(self) -> Float[Tensor, "points train"]:
        """The tangent kernel of the same kets between all points and the training inputs (the same for each output)."""
        columns = []
        for i in range(self.train):
            chi = torch.zeros(self.train, self.arch.outputs, dtype=self.points.dtype)
            chi[i, 0] = 1.0
            columns.append(self([chi], Identity())[:, 0])
        return torch.stack(columns, 1)


def _last(rule: EntrywiseUpdate, gradients: Sequence[Tensor]) -> Tensor:
    """Q_t(g_0, ..., g_t)."""
    memory: Memory = ()
    move = gradients[0]
    for gradient in gradients:
        move, memory = rule.apply(gradient, memory)
    return move


def adam_kernel(
    arch: Arch,
    xi: Float[Tensor, "points inputs"],
    xi_train: Float[Tensor, "train inputs"],
    chi: Float[Tensor, "train outputs"],
    rule: EntrywiseUpdate,
    **options: object,
) -> Float[Tensor, "points outputs"]:
    """The first step's nonlinear kernel operator at ``xi``, applied to the errors ``chi`` at ``xi_train``.

    ``options`` (``samples``, ``generator``, ``copies``) are those of :class:`OperatorKernel`.
    """
    kernel = OperatorKernel(arch, torch.cat([xi_train, xi]), len(xi_train), **options)  # type: ignore[arg-type]
    return kernel([chi], rule)[len(xi_train) :]


def limit_operator(
    arch: Arch,
    problem: Problem,
    rule: EntrywiseUpdate,
    *,
    lr: float,
    steps: int,
    f0: Float[Tensor, "points outputs"],
    kernel: OperatorKernel | None = None,
    samples: int = 100_000,
    generator: torch.Generator,
    copies: int = 1000,
) -> Predictions:
    """f_0, ..., f_steps in the operator limit, from the (random) initial function ``f0`` at the problem's points.

    ``kernel`` saves drawing the kets of the same architecture and points again.
    """
    base.whole("steps", steps, 0), base.positive("lr", lr)
    if kernel is None:
        options = {"samples": samples, "generator": generator, "copies": copies}
        kernel = OperatorKernel(arch, problem.points, len(problem.x), **options)  # type: ignore[arg-type]
    found = [f0.to(kernel.points.dtype)]
    chis: list[Tensor] = []
    for _ in range(steps):
        chis.append(problem.errors(found[-1]))
        found.append(found[-1] - lr * kernel(chis, rule))
    return torch.stack(found)


def finite_run(
    arch: Arch,
    problem: Problem,
    rule: EntrywiseUpdate,
    abcd: ABCD,
    *,
    width: int,
    lr: float,
    steps: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Predictions:
    """f_0, ..., f_steps of a network of finite width, to compare with the limits."""
    if abcd.layers != arch.hidden + 1:
        raise ValueError(f"the parametrisation has {abcd.layers} layers, the architecture {arch.hidden + 1}")
    model = AbcdMLP(arch.inputs, width, arch.outputs, abcd, generator, activation=arch.activation, stds=arch.stds).to(
        dtype
    )
    optimizer = Entrywise(abcd_param_groups(model, lr), rule)
    points, x, y = (v.to(dtype) for v in (problem.points, problem.x, problem.y))
    found = []
    for step in range(steps + 1):
        with torch.no_grad():
            found.append(model(points))
        if step < steps:
            optimizer.zero_grad()
            ((model(x) - y).square().sum() / (2 * len(x))).backward()
            optimizer.step()
    return torch.stack(found)
