"""What one more unit of rank would bring on each bond of a tensor network: the scan of a greedy structure search.

The rank-one heuristic of Hashemizadeh, Liu, Miller, Rabusseau, "Adaptive Learning of Tensor Network Structures"
(arXiv 2008.05437): all cores stay as they are, and the new slices v_i, v_j of bond (i, j) are fitted to the residual
R = X - full by a few alternating least-squares updates. The new network is full + C(v_i, v_j) without cross terms, so
|R - C|² is the exact loss of the enlarged network.

Everything that a bond needs is the environment W of the *pair*, W[rest, a, b], with the other modes as rows, the
remaining bonds of i as a and those of j as b:

    C[x_i, x_j, rest] = sum_ab W[rest, a, b] v_i[a, x_i] v_j[b, x_j].

With the vertices in a line, W is (cores left of i) × (cores between) × (cores right of j); the three are extended by
one core at a time and shared by all pairs. An update needs P = WᵀR once and, of WᵀW, what v_j leaves of it; whichever
is cheaper for the pair is formed, WᵀW or W v_j. With a mask only the rows of observed entries count, one small system
for each index x_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..network import TensorNetwork, best_order

MAX_ENVIRONMENT = 2**31  # bytes of one pair's environment
RIDGE = 1e-12  # relative to the mean diagonal of a Gram


@dataclass(frozen=True)
class Candidate:
    """A bond, its new slices (as arrays to be appended to cores i and j), and the network's errors with them.

    Attributes:
        loss: |M ∘ (X - X̂)|² with the slices, M the mask.
        valid_loss: the same over the entries kept aside (nan without).
    """

    edge: tuple[int, int]
    slices: tuple[np.ndarray, np.ndarray]
    loss: float
    valid_loss: float


@dataclass(frozen=True)
class _Block:
    """A contracted group of cores: an array with a label per axis (bonds i·N + j, modes -1 - i)."""

    array: np.ndarray
    labels: tuple[int, ...]

    def __matmul__(self, other: _Block) -> _Block:
        shared = [x for x in self.labels if x in other.labels]
        axes = ([self.labels.index(x) for x in shared], [other.labels.index(x) for x in shared])
        rest = tuple(x for x in (*self.labels, *other.labels) if x not in shared)
        summed = math.prod(self.array.shape[k] for k in axes[0])
        entries = self.array.size * other.array.size // summed**2
        if 8 * entries > MAX_ENVIRONMENT:
            raise ValueError(f"the environment of a bond would have {entries:.2g} entries, over 2 GiB; lower the ranks")
        return _Block(np.tensordot(self.array, other.array, axes), rest)

    def arranged(self, groups: Sequence[Sequence[int]]) -> np.ndarray:
        """One axis per group of labels."""
        axes = [self.labels.index(x) for group in groups for x in group]
        sizes = dict(zip(self.labels, self.array.shape, strict=True))
        return self.array.transpose(axes).reshape([math.prod(sizes[x] for x in group) for group in groups])


class PairEnvironments:
    """The environments of all pairs of vertices, from prefixes, middles and suffixes of one line that they share."""

    def __init__(self, network: TensorNetwork):
        self.order = network.order
        ranks = network.adjacency()
        self.line = best_order(tuple(map(tuple, ranks.tolist())))
        self.cores = [self._block(np.asarray(network.cores[v]), v, ranks[v]) for v in self.line]
        self.bonds = [[x for x in core.labels if x >= 0] for core in self.cores]
        one = _Block(np.ones(()), ())
        self.prefix, self.suffix = [one], [one]
        for core in self.cores[:-1]:
            self.prefix.append(self.prefix[-1] @ core)
        for core in reversed(self.cores[1:]):
            self.suffix.append(core @ self.suffix[-1])
        self.suffix.reverse()
        self.middle: dict[int, list[_Block]] = {}

    def _block(self, core: np.ndarray, v: int, row: np.ndarray) -> _Block:
        kept = [j for j in range(self.order) if j == v or row[j] > 1]
        labels = tuple(-1 - v if j == v else min(v, j) * self.order + max(v, j) for j in kept)
        return _Block(core.reshape([core.shape[j] for j in kept]), labels)

    def __call__(self, i: int, j: int) -> np.ndarray:
        """W of vertices i and j, axes (*rest in ascending order of the modes, a, b), i before j or not."""
        left, right = sorted((self.line.index(i), self.line.index(j)))
        chain = self.middle.setdefault(left, [_Block(np.ones(()), ())])
        while len(chain) < right - left:
            chain.append(chain[-1] @ self.cores[left + len(chain)])
        # the pair's own cores are absent, so their bonds stay open; the thinner side is joined first
        before, between, after = self.prefix[left], chain[right - left - 1], self.suffix[right]
        first = before @ between if before.array.size <= after.array.size else between @ after
        whole = first @ after if before.array.size <= after.array.size else before @ first
        own = min(i, j) * self.order + max(i, j)
        groups = [[x for x in self.bonds[self.line.index(v)] if x != own] for v in (i, j)]
        rest = [-1 - k for k in range(self.order) if k not in (i, j)]
        return whole.arranged([*([x] for x in rest), *groups])


def scan_edges(
    residual: np.ndarray,
    network: TensorNetwork,
    edges: Sequence[tuple[int, int]],
    generator: np.random.Generator,
    *,
    sweeps: int = 2,
    inc: int = 1,
    mask: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    ridge: float = RIDGE,
) -> list[Candidate]:
    """Fit the new slices of every bond to the residual.

    Args:
        residual: X - full, of the network's shape; what it holds where nothing is observed is not looked at.
        network: the cores, which stay as they are.
        edges: pairs of vertices.
        generator: the slices v_j start as Gaussian noise (their scale does not matter: v_i is solved for first).
        sweeps: updates of both slices.
        inc: slices per bond.
        mask: True where observed.
        valid: True at entries kept aside, on which ``valid_loss`` is measured.
        ridge: relative to the mean diagonal of each Gram.

    Raises:
        ValueError: an environment over 2 GiB.
    """
    environments = PairEnvironments(network)
    if mask is None:
        square = float(np.sum(residual**2))
    else:
        seen = np.nonzero(mask)
        square = float(np.sum(residual[seen] ** 2))
    out = []
    for i, j in edges:
        W = environments(i, j)
        start = generator.standard_normal((W.shape[-1], inc, residual.shape[j]))
        if mask is None:
            v_i, v_j, gain = _fit_dense(W, np.moveaxis(residual, (i, j), (-2, -1)), start, sweeps, ridge)
        else:
            v_i, v_j, gain = _fit_masked(W, residual[seen], seen, (i, j), residual.shape, start, sweeps, ridge)
        valid_loss = math.nan
        if valid is not None:
            held = np.nonzero(valid)
            error = residual[held] - _entries(W, held, (i, j), v_i, v_j)
            valid_loss = float(error @ error)
        slices = (_as_core(v_i, network, i, j), _as_core(v_j, network, j, i))
        out.append(Candidate((i, j), slices, max(square + gain, 0.0), valid_loss))
    return out


def _as_core(v: np.ndarray, network: TensorNetwork, own: int, other: int) -> np.ndarray:
    """(bonds, inc, mode) -> an array to append to core ``own`` along axis ``other``."""
    shape = list(network.cores[own].shape)
    order = network.order
    bonds = [k for k in range(order) if k not in (own, other)]
    array = v.reshape(*(shape[k] for k in bonds), v.shape[1], v.shape[2])
    return array.transpose(np.argsort([*bonds, other, own]))


def _ridged(gram: np.ndarray, right: np.ndarray, ridge: float) -> np.ndarray:
    size = gram.shape[-1]
    damped = gram.copy()
    diagonal = damped.reshape(*damped.shape[:-2], -1)[..., :: size + 1]
    diagonal += ridge * diagonal.mean(-1, keepdims=True) + 1e-300  # 1e-300: an environment that is all zero
    try:
        return np.linalg.solve(damped, right)
    except np.linalg.LinAlgError:  # singular to the last bit in spite of the ridge
        return np.linalg.pinv(damped, hermitian=True) @ right


def _fit_dense(W: np.ndarray, R: np.ndarray, v_j: np.ndarray, sweeps: int, ridge: float):
    """Slices (a, inc, x_i) and (b, inc, x_j), and by how much |R - C|² is below |R|² (negative)."""
    a, b = W.shape[-2:]
    W = W.reshape(-1, a, b)
    flat = W.reshape(len(W), a * b)
    P = (flat.T @ R.reshape(len(W), -1)).reshape(a, b, *R.shape[-2:])  # a, b, x_i, x_j
    inc, width = v_j.shape[1], min(a, b) * max(R.shape[-2:]) * v_j.shape[1]
    cheap = a * b <= 4 * sweeps * width  # WᵀW costs rest·(ab)², the other way about 2·sweeps·rest·ab·width
    Q = (flat.T @ flat).reshape(a, b, a, b) if cheap else None

    def update(v: np.ndarray, W: np.ndarray, Q: np.ndarray | None, P: np.ndarray):
        """The slice of the first vertex with ``v`` (b, inc, x) fixed."""
        if Q is not None:
            S = np.tensordot(v, v, axes=(2, 2))  # b, s, b', s'
            gram = np.tensordot(Q, S, axes=((1, 3), (0, 2))).transpose(0, 2, 1, 3)
        else:
            fixed = np.tensordot(W, v, axes=(2, 0)).transpose(0, 3, 1, 2).reshape(len(W) * v.shape[2], -1)
            gram = fixed.T @ fixed
        gram = gram.reshape(P.shape[0] * inc, -1)
        right = np.tensordot(P, v, axes=((1, 3), (0, 2))).transpose(0, 2, 1).reshape(len(gram), -1)
        new = _ridged(gram, right, ridge)
        return new.reshape(P.shape[0], inc, -1), float(np.sum((gram @ new - 2.0 * right) * new))

    W_turned = W.swapaxes(1, 2)
    Q_turned = None if Q is None else Q.transpose(1, 0, 3, 2)
    P_turned = P.transpose(1, 0, 3, 2)
    for _ in range(sweeps):
        v_i, _ = update(v_j, W, Q, P)
        v_j, gain = update(v_i, W_turned, Q_turned, P_turned)
    return v_i, v_j, gain


def _rows(W: np.ndarray, seen: tuple[np.ndarray, ...], pair: tuple[int, int]) -> np.ndarray:
    """W at the rest-indices of the given entries, (entries, a, b)."""
    return W[tuple(index for k, index in enumerate(seen) if k not in pair)]


def _entries(W: np.ndarray, seen: tuple[np.ndarray, ...], pair: tuple[int, int], v_i: np.ndarray, v_j: np.ndarray):
    """C at the given entries."""
    half = np.einsum("nab,bsn->nas", _rows(W, seen, pair), v_j[:, :, seen[pair[1]]], optimize=True)
    return np.einsum("nas,asn->n", half, v_i[:, :, seen[pair[0]]])


def _fit_masked(W, values, seen, pair, shape, v_j, sweeps: int, ridge: float):
    """As :func:`_fit_dense`, from the observed entries."""
    rows = _rows(W, seen, pair)
    groups = [[np.nonzero(seen[mode] == x)[0] for x in range(shape[mode])] for mode in pair]

    def update(v: np.ndarray, rows: np.ndarray, own: int):
        other = 1 - own
        fixed = np.einsum("nab,bsn->nas", rows, v[:, :, seen[pair[other]]], optimize=True).reshape(len(rows), -1)
        size = fixed.shape[1]
        gram, right = np.empty((len(groups[own]), size, size)), np.empty((len(groups[own]), size, 1))
        for x, members in enumerate(groups[own]):
            part = fixed[members]
            gram[x], right[x, :, 0] = part.T @ part, part.T @ values[members]
        new = _ridged(gram, right, ridge)
        gain = float(np.sum((gram @ new - 2.0 * right) * new))
        return new[..., 0].T.reshape(rows.shape[1], v.shape[1], -1), gain

    turned = rows.swapaxes(1, 2)
    for _ in range(sweeps):
        v_i, _ = update(v_j, rows, 0)
        v_j, gain = update(v_i, turned, 1)
    return v_i, v_j, gain
