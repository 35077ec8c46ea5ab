"""Typed containers of the four classical tensor formats: CP, Tucker, tensor train (TT) and tensor ring (TR).

Convention of the whole package, stated once: tensors are row-major (C order), so the last index runs fastest. Hence
`full.reshape(n1 * ... * nk, -1)` is the unfolding whose rows are numbered by (i1, ..., ik) with ik fastest, and the
Kronecker product `kron(a, b)` flattens the outer product of a and b. MATLAB's Tensor Toolbox and pyttb are
column-major: permute before comparing unfoldings with theirs.

    CP      T[i1..im]  =  sum_r  w[r] A1[i1, r] ... Am[im, r]
    Tucker  T[i1..im]  =  sum_{a1..am}  G[a1..am] A1[i1, a1] ... Am[im, am]
    TT      T[i1..im]  =  G1[0, i1, :] G2[:, i2, :] ... Gm[:, im, 0]
    TR      T[i1..im]  =  trace(G1[:, i1, :] G2[:, i2, :] ... Gm[:, im, :])

MultipleTensor, ChebTucker and TensorNetwork, in modules of their own, are saved and loaded in the same way.

The entries are torch tensors; NumPy arrays are accepted and become float64 tensors unless a dtype is named by the
arrays themselves (float32 stays float32). Containers are immutable; `save` writes an .npz that needs no pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

ArrayLike = Any  # torch tensor, NumPy array or nested list of numbers


def as_tensor(x: ArrayLike) -> Tensor:
    """`x` as a floating torch tensor: float32 and float64 are kept, everything else real becomes float64."""
    tensor = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    if tensor.is_complex():
        raise ValueError("complex entries are not supported; pass the real and imaginary parts as two tensors")
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.to(torch.float64)


_KINDS: dict[str, type[_Format]] = {}


class _Format:
    """What all formats share; a subclass names its arrays in `arrays()` and rebuilds itself in `from_arrays`."""

    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        _KINDS[cls.kind] = cls  # for `load`

    def arrays(self) -> list[Tensor]:
        raise NotImplementedError

    @classmethod
    def from_arrays(cls, arrays: Sequence[ArrayLike]) -> Self:
        raise NotImplementedError

    def full(self) -> Tensor:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def num_params(self) -> int:
        """Number of stored entries (scale ambiguities are not subtracted)."""
        return sum(a.numel() for a in self.arrays())

    def save(self, path: str | Path) -> None:
        """Write an .npz holding plain arrays only, so that `load` never unpickles."""
        arrays = {f"array{k}": a.detach().cpu().numpy() for k, a in enumerate(self.arrays())}
        np.savez(path, kind=np.array(self.kind), count=np.array(len(arrays)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; ValueError if the file holds another format."""
        loaded = load(path)
        if not isinstance(loaded, cls):
            raise ValueError(f"{path} holds a {loaded.kind} tensor, not {cls.kind}; use formats.load")
        return loaded


@dataclass(frozen=True, eq=False)
class CP(_Format):
    """Canonical polyadic format: `weights` (r,) and one (n_k, r) factor per mode. `weights` may be None: ones."""

    weights: Float[Tensor, " r"]
    factors: tuple[Float[Tensor, "_ r"], ...]
    kind: ClassVar[str] = "cp"

    def __post_init__(self) -> None:
        factors = tuple(as_tensor(f) for f in self.factors)
        if not factors:
            raise ValueError("a CP tensor needs at least one factor")
        for mode, factor in enumerate(factors):
            if factor.ndim != 2 or factor.shape[1] != factors[0].shape[1]:
                raise ValueError(
                    f"factor of mode {mode} has shape {tuple(factor.shape)}; expected (n, {factors[0].shape[-1]}), "
                    "one column per component in every mode"
                )
        rank = factors[0].shape[1]
        weights = factors[0].new_ones(rank) if self.weights is None else as_tensor(self.weights)
        if weights.shape != (rank,):
            raise ValueError(f"weights have shape {tuple(weights.shape)}; expected ({rank},), one per factor column")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "factors", factors)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(f.shape[0] for f in self.factors)

    @property
    def rank(self) -> int:
        return self.weights.shape[0]

    @property
    def ranks(self) -> tuple[int, ...]:
        return (self.rank,)

    def full(self) -> Tensor:
        if len(self.factors) == 1:
            return self.factors[0] @ self.weights
        # Two groups of modes meet in one matrix product: nothing larger than the result is ever stored.
        half = len(self.factors) // 2
        left = khatri_rao([self.weights[None, :] * self.factors[0], *self.factors[1:half]])
        return (left @ khatri_rao(self.factors[half:]).T).reshape(self.shape)

    def normalized(self) -> CP:
        """The same tensor with unit columns; norms go into the weights, zero columns stay zero with weight 0."""
        weights, factors = self.weights, []
        for factor in self.factors:
            norm = torch.linalg.vector_norm(factor, dim=0)
            weights = weights * norm
            factors.append(factor / torch.where(norm > 0, norm, torch.ones_like(norm)))
        return CP(weights, tuple(factors))

    def arrays(self) -> list[Tensor]:
        return [self.weights, *self.factors]

    @classmethod
    def from_arrays(cls, arrays: Sequence[ArrayLike]) -> CP:
        return cls(arrays[0], tuple(arrays[1:]))

    def to_tensorly(self) -> Any:
        """A `tensorly.cp_tensor.CPTensor` in tensorly's current backend."""
        from tensorly.cp_tensor import CPTensor

        weights, *factors = _to_backend(self.arrays())
        return CPTensor((weights, factors))

    @classmethod
    def from_tensorly(cls, tensor: Any) -> CP:
        """From a tensorly CP tensor or any pair (weights or None, factors)."""
        weights, factors = tensor
        return cls(None if weights is None else _from_backend(weights), tuple(map(_from_backend, factors)))


@dataclass(frozen=True, eq=False)
class Tucker(_Format):
    """Tucker format: a core of shape (r_1, ..., r_m) and one (n_k, r_k) factor per mode."""

    core: Float[Tensor, "*ranks"]
    factors: tuple[Float[Tensor, "_ _"], ...]
    kind: ClassVar[str] = "tucker"

    def __post_init__(self) -> None:
        core, factors = as_tensor(self.core), tuple(as_tensor(f) for f in self.factors)
        if core.ndim != len(factors):
            raise ValueError(f"core has {core.ndim} modes but there are {len(factors)} factors; expected one per mode")
        for mode, factor in enumerate(factors):
            if factor.ndim != 2 or factor.shape[1] != core.shape[mode]:
                raise ValueError(
                    f"factor of mode {mode} has shape {tuple(factor.shape)}; expected (n, {core.shape[mode]}) "
                    f"for a core of shape {tuple(core.shape)}"
                )
        object.__setattr__(self, "core", core)
        object.__setattr__(self, "factors", factors)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(f.shape[0] for f in self.factors)

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(self.core.shape)

    def full(self) -> Tensor:
        result = self.core
        for factor in self.factors:  # contract the first axis and append: after m steps the modes are back in order
            result = torch.tensordot(result, factor, dims=([0], [1]))
        return result

    def arrays(self) -> list[Tensor]:
        return [self.core, *self.factors]

    @classmethod
    def from_arrays(cls, arrays: Sequence[ArrayLike]) -> Tucker:
        return cls(arrays[0], tuple(arrays[1:]))

    def to_tensorly(self) -> Any:
        """A `tensorly.tucker_tensor.TuckerTensor` in tensorly's current backend."""
        from tensorly.tucker_tensor import TuckerTensor

        core, *factors = _to_backend(self.arrays())
        return TuckerTensor((core, factors))

    @classmethod
    def from_tensorly(cls, tensor: Any) -> Tucker:
        core, factors = tensor
        return cls(_from_backend(core), tuple(map(_from_backend, factors)))


@dataclass(frozen=True, eq=False)
class TR(_Format):
    """Tensor ring: cores (r_k, n_k, r_{k+1}) whose last bond closes on the first (r_{m+1} = r_1)."""

    cores: tuple[Float[Tensor, "_ _ _"], ...]
    kind: ClassVar[str] = "tr"

    def __post_init__(self) -> None:
        cores = tuple(as_tensor(c) for c in self.cores)
        if not cores:
            raise ValueError(f"a {self.kind} tensor needs at least one core")
        for k, core in enumerate(cores):
            if core.ndim != 3:
                raise ValueError(f"core {k} has shape {tuple(core.shape)}; expected (left rank, mode size, right rank)")
            right = cores[(k + 1) % len(cores)].shape[0]
            if core.shape[2] != right:
                raise ValueError(
                    f"core {k} ends in rank {core.shape[2]} but core {(k + 1) % len(cores)} begins with rank {right}"
                )
        object.__setattr__(self, "cores", cores)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(c.shape[1] for c in self.cores)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The m + 1 bond dimensions (r_1, ..., r_m, r_1), as tensorly writes them."""
        return (*(c.shape[0] for c in self.cores), self.cores[-1].shape[2])

    def full(self) -> Tensor:
        first, bond = self.cores[0], self.cores[0].shape[0]
        if len(self.cores) == 1:
            return torch.einsum("ini->n", first)
        chain = first  # (r_1, n_1 ... n_k flattened, r_{k+1})
        for core in self.cores[1:-1]:
            chain = torch.einsum("anb,bmc->anmc", chain, core).reshape(bond, -1, core.shape[2])
        return torch.einsum("anb,bma->nm", chain, self.cores[-1]).reshape(self.shape)

    def arrays(self) -> list[Tensor]:
        return list(self.cores)

    @classmethod
    def from_arrays(cls, arrays: Sequence[ArrayLike]) -> Self:
        return cls(tuple(arrays))

    def to_tensorly(self) -> Any:
        """A `tensorly.tr_tensor.TRTensor` in tensorly's current backend."""
        from tensorly.tr_tensor import TRTensor

        return TRTensor(_to_backend(self.cores))

    @classmethod
    def from_tensorly(cls, tensor: Any) -> Self:
        """From a tensorly TT or TR tensor or any sequence of cores."""
        return cls(tuple(_from_backend(tensor[k]) for k in range(len(tensor))))


@dataclass(frozen=True, eq=False)
class TT(TR):
    """Tensor train: a ring whose closing bond is 1, that is r_1 = r_{m+1} = 1."""

    kind: ClassVar[str] = "tt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cores[0].shape[0] != 1:
            raise ValueError(
                f"a tensor train begins and ends with rank 1, these cores with rank {self.cores[0].shape[0]}; "
                "use TR for a ring"
            )

    def to_tensorly(self) -> Any:
        """A `tensorly.tt_tensor.TTTensor` in tensorly's current backend."""
        from tensorly.tt_tensor import TTTensor

        return TTTensor(_to_backend(self.cores))


_ELSEWHERE = {  # formats that are there when their module is imported
    "multiple": "tensorbench.decomposition.functional.multiple",
    "chebtuck": "tensorbench.decomposition.functional.chebtuck",
    "network": "tensorbench.decomposition.network.container",
}


def load(path: str | Path) -> _Format:
    """Read any format that `save` wrote.

    Raises:
        ValueError: a file that no `save` of a format wrote, or of a kind that is not known.
    """
    with np.load(path, allow_pickle=False) as file:
        if "kind" not in file:
            raise ValueError(f"{path} does not say which format it holds; load reads what a format's save wrote")
        kind = str(file["kind"])
        if kind in _ELSEWHERE:
            import_module(_ELSEWHERE[kind])
        if kind not in _KINDS:
            raise ValueError(unknown("tensor format", kind, list(_KINDS | _ELSEWHERE)))
        return _KINDS[kind].from_arrays([file[f"array{k}"] for k in range(int(file["count"]))])


def khatri_rao(matrices: Sequence[Float[Tensor, "_ r"]]) -> Float[Tensor, "_ r"]:
    """Column-wise Kronecker product; rows in row-major order (the last matrix's index runs fastest)."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = (result[:, None, :] * matrix[None, :, :]).reshape(-1, result.shape[1])
    return result


def _to_backend(arrays: Sequence[Tensor]) -> list[Any]:
    import tensorly as tl

    return [tl.tensor(a) if tl.get_backend() == "pytorch" else tl.tensor(a.detach().cpu().numpy()) for a in arrays]


def _from_backend(array: Any) -> Tensor:
    import tensorly as tl

    return as_tensor(array if isinstance(array, Tensor | np.ndarray) else tl.to_numpy(array))
