"""Allocation of tokens in Bayesian Poisson Tucker decomposition: three ways on the same counts, in one process.

    NUMBA_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/decomposition/benchmarks/count_allocation.py

- tables: partial sums over communities for all pairs first, then O(RK + 2C) a token (`compositional_allocate`);
- cells: partial sums over communities for every nonzero cell, O(R K C^2) each, then four short draws a token: the
  scheme of the authors' Cython code;
- joint: one categorical over all R K C C classes, its weights built for every nonzero cell (`naive_allocate`).

Counts are Poisson with about two events a nonzero cell, sizes those of the desk-scale experiment. All three are
compiled by numba, so this compares algorithms, not languages.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tensorbench.core.timing import compare
from tensorbench.decomposition.counts.bptd import start
from tensorbench.decomposition.counts.conditionals import Prior, sweep
from tensorbench.decomposition.counts.inputs import check_counts
from tensorbench.decomposition.counts.kernels import _pick
from tensorbench.decomposition.counts.sampling import compositional_allocate, naive_allocate
from tensorbench.decomposition.datasets.counts import planted_communities


@njit(cache=True)
def by_cells(
    coords: np.ndarray,
    values: np.ndarray,
    theta: np.ndarray,
    phi: np.ndarray,
    psi: np.ndarray,
    core: np.ndarray,
    rng: np.random.Generator,
    blocks: np.ndarray,
) -> None:
    """The authors' scheme; only the block counts are kept, which is the lesser part of the writing."""
    R, K, C = core.shape[0], core.shape[1], core.shape[2]
    of_r, of_k, of_c, of_d = np.empty(R), np.empty((R, K)), np.empty((R, K, C)), np.empty((R, K, C, C))
    for p in range(values.size):
        i, j, a, t = coords[p]
        total_r = 0.0
        for r in range(R):
            total_k = 0.0
            for k in range(K):
                total_c = 0.0
                for c in range(C):
                    total_d = 0.0
                    for d in range(C):
                        total_d += core[r, k, c, d] * theta[j, d]
                        of_d[r, k, c, d] = total_d
                    total_c += theta[i, c] * total_d
                    of_c[r, k, c] = total_c
                total_k += phi[a, k] * total_c
                of_k[r, k] = total_k
            total_r += psi[t, r] * total_k
            of_r[r] = total_r
        for _ in range(values[p]):
            r = _pick(of_r, R, rng)
            k = _pick(of_k[r], K, rng)
            c = _pick(of_c[r, k], C, rng)
            blocks[r, k, c, _pick(of_d[r, k, c], C, rng)] += 1


def main() -> None:
    """Seconds of one allocation for three numbers of communities, and ratios to the tables."""
    tensor = planted_communities(seed=0, actors=40, actions=20, months=24, communities=20, topics=6, events=100_000)
    data = check_counts(tensor.counts)
    print(f"{data.values.sum()} events in {data.values.size} cells, 6 topics, 3 regimes")
    for communities in (10, 20, 40):
        rng = np.random.default_rng(0)
        state = start((40, 20, 24, communities, 6, 3), Prior(), data, rng)
        for _ in range(3):
            sweep(state, data, Prior(), rng)
        blocks = np.zeros(state.Lambda_RKCC.shape, dtype=np.int64)
        parts = (state.Theta_VC, state.Phi_AK, state.Psi_TR, state.Lambda_RKCC)
        seconds = compare(
            {
                "tables": lambda s=state, g=rng: compositional_allocate(data.coords, data.values, s, g),
                "cells": lambda x=parts, g=rng, b=blocks: by_cells(data.coords, data.values, *x, g, b),
                "joint": lambda s=state, g=rng: naive_allocate(data.coords, data.values, s, g),
            },
            repeats=3,
        )
        ratios = ", ".join(f"{name} {seconds[name] / seconds['tables']:.1f}x" for name in ("cells", "joint"))
        print(f"C = {communities:2d}: tables {1000 * seconds['tables']:6.1f} ms, {ratios}")


if __name__ == "__main__":
    main()
