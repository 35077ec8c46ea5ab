"""The continuous symmetry of a network without activations on its features: other weights, the same function.

Liu, Shao, Bai (2023), arXiv 2308.01621. The features z of a stage of
:class:`~tensorbench.pde_operators.pde_resnet.PDEResNet` are written by linear maps (the stem or the entry's last
convolution and skip, the last convolution of each later block) and read by linear maps (the first convolutions, the
next stage's skip, the classifier). With batch norm fused,

    W ← Q W, b ← Q b  for the writers,      W ← W Q⁻¹  for the readers

turns z into Q z and leaves the network's function as it is; identity skips commute with Q. Q may be any invertible
matrix, or an orthogonal one where the stage's entry ends with a projection onto a ball. What breaks the symmetry is a
nonlinearity that acts on the features channel by channel: ReLU after the addition does, ReLU inside a block does not.

The same for all t in exp(tA) is a path of weights along which the loss is constant; so at any weights w the
gradient g is orthogonal to the direction M_A w of the path, and the Hessian obeys H M_A w = -M_Aᵀ g, which is zero
at a critical point.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.pde_resnet import ConvBN, PDEBlock, PDEResNet, fuse

Kind = Literal["orthogonal", "gl", "diagonal"]
LARGEST_CONDITION = 1e8
_ORTHOGONAL = 1e-5  # largest deviation of QᵀQ from the identity

# --- which weights ---------------------------------------------------------------------------------------------------


def writers(model: PDEResNet, stage: int) -> list[nn.Conv2d]:
    """Convolutions whose outputs are summed into the features of a stage."""
    _check_stage(model, stage)
    blocks: list[PDEBlock] = list(model.stages[stage])  # type: ignore[call-overload]
    first = [model.stem] if stage == 0 else [blocks[0].skip]
    return [part.conv for part in (*first, *(block.conv3 for block in blocks)) if isinstance(part, ConvBN)]


def readers(model: PDEResNet, stage: int) -> list[nn.Conv2d | nn.Linear]:
    """Convolutions (or the classifier) that take the features of a stage as input."""
    _check_stage(model, stage)
    found: list[nn.Conv2d | nn.Linear] = []
    for block in list(model.stages[stage])[0 if stage == 0 else 1 :]:  # type: ignore[call-overload]
        found.append(block.conv1.conv)
    if stage + 1 == len(model.stages):
        return [*found, model.head]
    entry: PDEBlock = model.stages[stage + 1][0]  # type: ignore[index,assignment]
    return [*found, entry.conv1.conv, entry.skip.conv]  # type: ignore[union-attr,list-item]


def group(model: PDEResNet, stage: int) -> Literal["gl", "orthogonal"]:
    """The largest group of matrices that a stage's features may be multiplied by.

    Raises:
        ValueError: there is none, since a nonlinearity acts on each channel.
    """
    _check_stage(model, stage)
    blocks: list[PDEBlock] = list(model.stages[stage])  # type: ignore[call-overload]
    if any(block.activation in ("stage", "relu") for block in blocks):
        raise ValueError(f"stage {stage} applies ReLU to its features, which commutes with no rotation of them")
    if stage == 0 and not isinstance(model.stem, ConvBN):
        raise ValueError("the stem 'imagenet' ends with ReLU and a max pool, so the features of stage 0 are fixed; "
                         "use a later stage or stem='small'")  # fmt: skip
    return "orthogonal" if any(not isinstance(block.ball, nn.Identity) for block in blocks) else "gl"


# --- matrices --------------------------------------------------------------------------------------------------------


def random_symmetry(kind: Kind, n: int, generator: torch.Generator, condition: float = 10.0) -> Float[Tensor, "n n"]:
    """A random matrix in float64: Haar orthogonal, or with singular values evenly spaced in the logarithm.

    ``gl`` has random singular vectors, ``diagonal`` the singular values in random order with random signs; their
    geometric mean is 1 and their ratio ``condition``, which ``orthogonal`` ignores.
    """
    if kind not in get_args(Kind):
        raise ValueError(unknown("kind", kind, get_args(Kind)))
    if kind == "orthogonal":
        return _haar(n, generator)
    if condition < 1:
        raise ValueError(f"condition {condition} is the largest over the smallest singular value, so at least 1")
    half = 0.5 * torch.log(torch.tensor(condition, dtype=torch.float64))
    ends = torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
    values = ends.mul(half).exp()
    if kind == "gl":
        return _haar(n, generator) @ torch.diag(values) @ _haar(n, generator)
    signs = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    return torch.diag(values[torch.randperm(n, generator=generator)] * signs)


def random_direction(kind: Kind, n: int, generator: torch.Generator) -> Float[Tensor, "n n"]:
    """A random element of the Lie algebra of spectral norm 1: skew-symmetric, any, or a diagonal matrix."""
    if kind not in get_args(Kind):
        raise ValueError(unknown("kind", kind, get_args(Kind)))
    if kind == "orthogonal" and n < 2:
        raise ValueError(f"n {n}: one channel has no rotation; use two or more")
    A = torch.randn(n, n, dtype=torch.float64, generator=generator)
    A = A - A.mT if kind == "orthogonal" else torch.diag(A.diagonal()) if kind == "diagonal" else A
    return A / torch.linalg.matrix_norm(A, 2)


def _haar(n: int, generator: torch.Generator) -> Tensor:
    Q, R = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    return Q * R.diagonal().sign()


# --- moving the weights ----------------------------------------------------------------------------------------------


@torch.no_grad()
def apply_symmetry(
    model: PDEResNet, stage: int, Q: Float[Tensor, "n n"], *, inverse: bool = False, check: bool = True
) -> PDEResNet:
    """A copy of the network, batch norm fused, whose features in ``stage`` are multiplied by Q (or its inverse).

    The products are made in float64 and rounded to the weights' type. ``check=False`` multiplies even where the
    symmetry is broken, to see by how much.

    Raises:
        RuntimeError: training mode. ValueError: no such stage, Q is not square of the stage's width, is singular or
            has a condition number above 1e8, or the stage does not allow it.
    """
    moved: PDEResNet = fuse(model)  # type: ignore[assignment]
    _check_matrix(moved, stage, Q, check)
    Q = Q.double()
    if inverse:
        Q = torch.linalg.inv(Q)
    for part in writers(moved, stage):
        part.weight.copy_(torch.einsum("ij,jkab->ikab", Q, part.weight.double()))
        assert part.bias is not None
        part.bias.copy_(Q @ part.bias.double())
    for reader in readers(moved, stage):
        W = reader.weight.double().flatten(1)  # readers are 1 × 1
        reader.weight.copy_(torch.linalg.solve(Q, W, left=False).view_as(reader.weight))
    return moved


def interpolate(model: PDEResNet, stage: int, A: Float[Tensor, "n n"], t: float, *, check: bool = True) -> PDEResNet:
    """The network at ``t`` of the path exp(tA): the same function for every t (A skew-symmetric where there is a
    ball).
    """
    return apply_symmetry(model, stage, torch.linalg.matrix_exp(t * A.double()), check=check)


def _check_stage(model: PDEResNet, stage: int) -> None:
    if not 0 <= stage < len(model.stages):
        raise ValueError(f"stage {stage} does not exist; the network has stages 0 to {len(model.stages) - 1}")


def _check_matrix(model: PDEResNet, stage: int, Q: Tensor, check: bool) -> None:
    _check_stage(model, stage)
    width = model.widths[stage]
    if Q.shape != (width, width):
        raise ValueError(
            f"Q has shape {tuple(Q.shape)}; stage {stage} has {width} channels and needs ({width}, {width})"
        )
    values = torch.linalg.svdvals(Q.double())
    condition = float(values[0] / values[-1])
    if not condition <= LARGEST_CONDITION:
        raise ValueError(f"Q is singular or nearly so (condition number {condition:.2g}); use one below 1e8")
    if not check or group(model, stage) == "gl":
        return
    if float((Q.mT @ Q - torch.eye(width, dtype=Q.dtype)).abs().max()) > _ORTHOGONAL:
        raise ValueError(
            f"stage {stage} projects its features onto a ball, which commutes with orthogonal matrices only; "
            "Q is not orthogonal (a network with radius=None allows any)"
        )


# --- what a move does ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SymmetryReport:
    """Outputs before and after a move: largest change, that over the largest output, accuracies, share of equal
    answers, and the distance between the (fused) weights over their norm.
    """

    difference: float
    relative: float
    accuracy_before: float
    accuracy_after: float
    agreement: float
    distance: float
    condition: float


@torch.no_grad()
def symmetry_report(
    model: PDEResNet,
    x: Float[Tensor, "batch channels height width"],
    Q: Float[Tensor, "n n"],
    stage: int,
    labels: Int[Tensor, " batch"] | None = None,
    *,
    check: bool = True,
) -> SymmetryReport:
    """How much the outputs for ``x`` change when the stage's features are multiplied by Q (accuracy: NaN without
    labels).
    """
    before = fuse(model)
    after = apply_symmetry(model, stage, Q, check=check)
    old, new = before(x), after(x)
    change = float((new - old).abs().max())
    accuracy = [float("nan")] * 2
    if labels is not None:
        accuracy = [float((y.argmax(1) == labels).double().mean()) for y in (old, new)]
    return SymmetryReport(
        change,
        change / float(old.abs().max()),
        accuracy[0],
        accuracy[1],
        float((old.argmax(1) == new.argmax(1)).double().mean()),
        weight_distance(before, after),
        float(torch.linalg.cond(Q.double())),
    )


@torch.no_grad()
def weight_distance(before: nn.Module, after: nn.Module) -> float:
    """Euclidean distance of all weights over the norm of the first network's."""
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    moved = sum(float((b.double() - a.double()).square().sum()) for b, a in pairs)
    return (moved / sum(float(b.double().square().sum()) for b, _ in pairs)) ** 0.5


@torch.no_grad()
def canonicalize(
    model: PDEResNet, stage: int, x: Float[Tensor, "batch channels height width"]
) -> tuple[PDEResNet, Float[Tensor, "n n"]]:
    """A normal form of the network within its symmetry, from the features z of the images ``x``, and the Q that
    leads there.

    With a ball, Q diagonalises E[z zᵀ], largest first. Without, it whitens, y = E[z zᵀ]^(-1/2) z, and then
    diagonalises E[|y|² y yᵀ]. Means of the features are made positive. Networks that differ by the symmetry alone
    have the same normal form, where eigenvalues are distinct.

    Raises:
        ValueError: the features of ``x`` do not span the stage's channels.
    """
    kind = group(model, stage)
    z = _features64(model, x, stage)
    M = z @ z.mT / z.shape[1]
    values, vectors = torch.linalg.eigh(M)
    if values[0] <= 1e-12 * values[-1]:
        rank = int((values > 1e-12 * values[-1]).sum())
        raise ValueError(
            f"the features of these images span {rank} of {len(M)} directions of stage {stage}; use more images"
        )
    Q = vectors.mT
    if kind == "gl":
        Q = values.rsqrt()[:, None] * vectors.mT
        y = Q @ z
        values, vectors = torch.linalg.eigh((y * y.square().sum(0)) @ y.mT / y.shape[1])
        Q = vectors.mT @ Q
    Q = Q.flip(0)
    means = (Q @ z).mean(1)
    Q = torch.where(means < 0, -1.0, 1.0)[:, None] * Q
    return apply_symmetry(model, stage, Q), Q


def _features64(model: PDEResNet, x: Tensor, stage: int) -> Float[Tensor, "channels samples"]:
    z = copy.deepcopy(model).double().features(x.double())[stage]
    return z.movedim(1, 0).flatten(1)


# --- flatness --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flatness:
    """Worst over the directions: |g·v|/(|g||v|), |Hv|/(|H||v|) and |Hv + M_Aᵀg|/(|H||v|), with v = M_A w; and the
    first two for as many random changes of the same weights.
    """

    slope: float
    hessian: float
    identity: float
    random_slope: float
    random_hessian: float


def flat_directions(
    model: PDEResNet,
    stage: int,
    loss: Callable[[nn.Module], Float[Tensor, ""]],
    generator: torch.Generator,
    *,
    kind: Kind = "orthogonal",
    count: int = 3,
    power_steps: int = 10,
) -> Flatness:
    """Slope and curvature of ``loss(model)`` along the Lie algebra of a stage's symmetry, by Hessian-vector products.

    The largest eigenvalue |H| comes from a power iteration. Use float64.
    """
    fused: PDEResNet = fuse(model)  # type: ignore[assignment]
    weights = list(fused.parameters())
    left = {id(p) for part in writers(fused, stage) for p in (part.weight, part.bias)}
    right = {id(part.weight) for part in readers(fused, stage)}
    gradient = torch.autograd.grad(loss(fused), weights, create_graph=True)

    def moved(A: Tensor, B: Tensor, values: list[Tensor]) -> list[Tensor]:
        """A from the left on what writes and -B from the right on what reads."""
        found = []
        for weight, value in zip(weights, values, strict=True):
            if id(weight) in left:
                found.append(torch.einsum("ij,j...->i...", A, value))
            elif id(weight) in right:
                found.append(-torch.einsum("ij...,jk->ik...", value, B))
            else:
                found.append(torch.zeros_like(value))
        return found

    def product(v: list[Tensor]) -> list[Tensor]:
        inner = sum((g * d).sum() for g, d in zip(gradient, v, strict=True))
        return list(torch.autograd.grad(inner, weights, retain_graph=True))  # type: ignore[arg-type]

    g = [part.detach() for part in gradient]
    w = [part.detach() for part in weights]
    v = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in w]
    largest = 0.0
    for _ in range(power_steps):
        length = _norm(v)
        v = product([part / length for part in v])
        largest = max(largest, _norm(v))
    found = []
    for _ in range(count):
        A = random_direction(kind, fused.widths[stage], generator).to(w[0].dtype)
        v = moved(A, A, w)
        Hv, pull = product(v), moved(A.mT, A.mT, g)
        other = [torch.randn(p.shape, dtype=p.dtype, generator=generator) * (d != 0) for p, d in zip(w, v, strict=True)]
        scale = largest * _norm(v)
        found.append((
            abs(_dot(g, v)) / (_norm(g) * _norm(v)),
            _norm(Hv) / scale,
            _norm([a + b for a, b in zip(Hv, pull, strict=True)]) / scale,
            abs(_dot(g, other)) / (_norm(g) * _norm(other)),
            _norm(product(other)) / (largest * _norm(other)),
        ))  # fmt: skip
    return Flatness(*(max(column) for column in zip(*found, strict=True)))


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((p * q).sum() for p, q in zip(a, b, strict=True)))


def _norm(a: list[Tensor]) -> float:
    return _dot(a, a) ** 0.5
