"""The state of Bayesian Poisson Tucker decomposition: its latent variables, the rates they give, files, label order.

The rate of a cell is sum_cdkr theta_ic theta_jd phi_ak psi_tr lambda_rkcd for i != j; the diagonal is undefined and 0
here. Letters after the underscore are the axes: V actors, A actions, T time steps, C communities, K topics, R regimes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclass
class State:
    """One sample of the posterior (or of the prior). float64; everything but the scalars is changed in place."""

    Theta_VC: Float[np.ndarray, "V C"]  # memberships of actors in communities
    Phi_AK: Float[np.ndarray, "A K"]  # topics: columns are distributions over actions
    Psi_TR: Float[np.ndarray, "T R"]  # how active a regime is in a time step
    Lambda_RKCC: Float[np.ndarray, "R K C C"]  # core: from community c to d
    eta_d_C: Float[np.ndarray, " C"]
    eta_a_C: Float[np.ndarray, " C"]
    nu_K: Float[np.ndarray, " K"]
    rho_R: Float[np.ndarray, " R"]
    alpha_V: Float[np.ndarray, " V"]
    beta: float
    delta: float
    zeta: float

    @property
    def dims(self) -> tuple[int, int, int, int, int, int]:
        """(V, A, T, C, K, R)."""
        return (
            self.Theta_VC.shape[0],
            self.Phi_AK.shape[0],
            self.Psi_TR.shape[0],
            self.Theta_VC.shape[1],
            self.Phi_AK.shape[1],
            self.Psi_TR.shape[1],
        )

    @property
    def num_params(self) -> int:
        """Numbers that the rates depend on."""
        return self.Theta_VC.size + self.Phi_AK.size + self.Psi_TR.size + self.Lambda_RKCC.size

    def core_shapes(self) -> Float[np.ndarray, "R K C C"]:
        """Shapes of the prior of lambda: rho_r nu_k eta_dc eta_dd, and rho_r nu_k eta_ac eta_dc on the diagonal."""
        return np.einsum("r,k,cd->rkcd", self.rho_R, self.nu_K, self.community_shapes())

    def community_shapes(self) -> Float[np.ndarray, "C C"]:
        """The factor of the shapes that depends on the communities."""
        shapes = np.outer(self.eta_d_C, self.eta_d_C)
        np.fill_diagonal(shapes, self.eta_a_C * self.eta_d_C)
        return shapes

    def permuted(self, order: Int[np.ndarray, " C"]) -> State:
        """The same model with its communities in another order."""
        core = self.Lambda_RKCC[:, :, order][:, :, :, order]
        return replace(
            self,
            Theta_VC=self.Theta_VC[:, order],
            Lambda_RKCC=core,
            eta_d_C=self.eta_d_C[order],
            eta_a_C=self.eta_a_C[order],
        )

    def part(self, actors: Int[np.ndarray, " v"], times: Int[np.ndarray, " t"]) -> State:
        """The model of some of the actors and time steps."""
        return replace(self, Theta_VC=self.Theta_VC[actors], alpha_V=self.alpha_V[actors], Psi_TR=self.Psi_TR[times])

    def copy(self) -> State:
        """Independent copies of the arrays."""
        return State(**{name: _field(name, getattr(self, name)) for name in NAMES})

    def save(self, path: str | Path) -> None:
        """Write an npz file with the fields by their names."""
        np.savez_compressed(path, **{name: getattr(self, name) for name in NAMES})

    @staticmethod
    def load(path: str | Path) -> State:
        """Read what :meth:`save` wrote. Raises ValueError where a field is missing."""
        with np.load(path, allow_pickle=False) as file:
            if missing := set(NAMES) - set(file.files):
                raise ValueError(f"{path} is no state: it lacks {', '.join(sorted(missing))}")
            return State(**{name: _field(name, file[name]) for name in NAMES})


SCALARS = ("beta", "delta", "zeta")
NAMES = tuple(f.name for f in fields(State))


def _field(name: str, value: Any) -> Any:
    return float(value) if name in SCALARS else np.array(value, dtype=np.float64)


def pair_tables(state: State) -> tuple[Float[np.ndarray, "RK V C"], Float[np.ndarray, "V V RK"]]:
    """Partial sums over communities: over d, for every receiver; over c and d, for every pair. q = (r, k)."""
    R, K, C, _ = state.Lambda_RKCC.shape
    inner = state.Theta_VC @ state.Lambda_RKCC.reshape(R * K, C, C).transpose(0, 2, 1)  # [q, j, c]
    pairs = inner @ state.Theta_VC.T  # [q, j, i]
    return inner, np.ascontiguousarray(pairs.transpose(2, 1, 0))


def rates(state: State, subs: Int[np.ndarray, "cells 4"] | None = None) -> Float[np.ndarray, "..."]:
    """Rates of the cells ``subs`` (rows i, j, a, t), or of all (V, V, A, T). The diagonal i = j is 0."""
    V, A, T, _, K, R = state.dims
    pairs = pair_tables(state)[1].reshape(V, V, R, K)
    pairs[np.arange(V), np.arange(V)] = 0.0
    if subs is None:
        by_class = np.einsum("tr,ak->rkat", state.Psi_TR, state.Phi_AK).reshape(R * K, A * T)
        return (pairs.reshape(V * V, R * K) @ by_class).reshape(V, V, A, T)
    i, j, a, t = np.asarray(subs).T
    return np.einsum("prk,pr,pk->p", pairs[i, j], state.Psi_TR[t], state.Phi_AK[a])


def token_shares(state: State) -> Float[np.ndarray, "V C"]:
    """Expected tokens that each actor sends or receives as a member of a community, all cells off the diagonal.

    This is what identifies a community: memberships alone may be scaled against the core.
    """
    core = np.einsum("rkcd,r->cd", state.Lambda_RKCC, state.Psi_TR.sum(axis=0))
    others = state.Theta_VC.sum(axis=0) - state.Theta_VC
    return state.Theta_VC * (others @ (core + core.T))
