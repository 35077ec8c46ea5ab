"""Compiled inner loops of the count models: allocation of tokens, CRT draws, and the updates that run actor by actor.

Nothing here checks its input; the functions that do are in ``sampling`` and ``conditionals``. Tables that several
tokens share are handed in: ``inner[q, j, c] = sum_d lambda_qcd theta_jd`` and ``pairs[i, j, q] = sum_c theta_ic
inner[q, j, c]``, with q = (r, k) flattened. All counts are ``int64``, everything else is ``float64``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TINY = 1e-300
SMALLEST_SHAPE = 1e-5


@njit(cache=True)
def crt_draw(m: int, r: float, rng: np.random.Generator) -> int:
    """CRT(m, r) as the sum of its m Bernoulli variables; the first of them is 1."""
    if m <= 0 or r <= 0.0:
        return 0
    tables = 1
    for n in range(1, m):
        if rng.random() * (r + n) < r:
            tables += 1
    return tables


@njit(cache=True)
def crt_each(m: np.ndarray, r: np.ndarray, rng: np.random.Generator, out: np.ndarray) -> None:
    """One draw per entry of flat arrays."""
    for n in range(m.size):
        out[n] = crt_draw(m[n], r[n], rng)


@njit(cache=True)
def gamma_draw(shape: float, rate: float, rng: np.random.Generator) -> float:
    """Ga(shape, rate), kept away from zero at both ends."""
    return max(rng.standard_gamma(max(shape, SMALLEST_SHAPE)) / rate, TINY)


@njit(cache=True)
def _pick(cumulative: np.ndarray, size: int, rng: np.random.Generator) -> int:
    """Index of a categorical draw from unnormalised cumulative weights: first entry above u times the total."""
    u = rng.random() * cumulative[size - 1]
    low, high = 0, size - 1
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] > u:
            high = middle
        else:
            low = middle + 1
    return low


@njit(cache=True)
def _pick_by_logs(
    send: np.ndarray, receive: np.ndarray, phi: np.ndarray, psi: np.ndarray, core: np.ndarray, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(r, k, c, d) where all products underflow: the largest log weight plus Gumbel noise, which is an exact draw."""
    best = -np.inf
    pick = (0, 0, 0, 0)
    for r in range(psi.size):
        for k in range(phi.size):
            for c in range(send.size):
                for d in range(receive.size):
                    value = np.log(psi[r]) + np.log(phi[k]) + np.log(send[c]) + np.log(receive[d])
                    value += np.log(core[r, k, c, d]) - np.log(-np.log(1.0 - rng.random()))
                    if value > best:
                        best = value
                        pick = (r, k, c, d)
    return pick


@njit(cache=True)
def allocate_stepwise(
    coords: np.ndarray,
    values: np.ndarray,
    theta: np.ndarray,
    phi: np.ndarray,
    psi: np.ndarray,
    core: np.ndarray,
    inner: np.ndarray,
    pairs: np.ndarray,
    rng: np.random.Generator,
    sent: np.ndarray,
    received: np.ndarray,
    actions: np.ndarray,
    times: np.ndarray,
    blocks: np.ndarray,
) -> None:
    """Compositional allocation: (r, k) once per cell as weights, then per token (r, k), c, d. O(RK) and O(2C)."""
    R, K, C = core.shape[0], core.shape[1], core.shape[2]
    classes, first, second = np.empty(R * K), np.empty(C), np.empty(C)
    for p in range(values.size):
        i, j, a, t = coords[p, 0], coords[p, 1], coords[p, 2], coords[p, 3]
        total = 0.0
        for r in range(R):
            for k in range(K):
                total += psi[t, r] * phi[a, k] * pairs[i, j, r * K + k]
                classes[r * K + k] = total
        for _ in range(values[p]):
            if total <= 0.0:
                r, k, c, d = _pick_by_logs(theta[i], theta[j], phi[a], psi[t], core, rng)
            else:
                q = _pick(classes, R * K, rng)
                r, k = q // K, q % K
                running = 0.0
                for c in range(C):
                    running += theta[i, c] * inner[q, j, c]
                    first[c] = running
                c = _pick(first, C, rng)
                running = 0.0
                for d in range(C):
                    running += theta[j, d] * core[r, k, c, d]
                    second[d] = running
                d = _pick(second, C, rng)
            sent[i, c] += 1
            received[j, d] += 1
            actions[a, k] += 1
            times[t, r] += 1
            blocks[r, k, c, d] += 1


@njit(cache=True)
def allocate_jointly(
    coords: np.ndarray,
    values: np.ndarray,
    theta: np.ndarray,
    phi: np.ndarray,
    psi: np.ndarray,
    core: np.ndarray,
    rng: np.random.Generator,
    sent: np.ndarray,
    received: np.ndarray,
    actions: np.ndarray,
    times: np.ndarray,
    blocks: np.ndarray,
) -> None:
    """Naive allocation: one categorical over all R K C C classes, its weights built once for every nonzero cell."""
    R, K, C = core.shape[0], core.shape[1], core.shape[2]
    classes = np.empty(R * K * C * C)
    for p in range(values.size):
        i, j, a, t = coords[p, 0], coords[p, 1], coords[p, 2], coords[p, 3]
        total = 0.0
        at = 0
        for r in range(R):
            for k in range(K):
                outer = psi[t, r] * phi[a, k]
                for c in range(C):
                    weight = outer * theta[i, c]
                    for d in range(C):
                        total += weight * theta[j, d] * core[r, k, c, d]
                        classes[at] = total
                        at += 1
        for _ in range(values[p]):
            if total <= 0.0:
                r, k, c, d = _pick_by_logs(theta[i], theta[j], phi[a], psi[t], core, rng)
            else:
                q = _pick(classes, classes.size, rng)
                d, c = q % C, q // C % C
                k, r = q // (C * C) % K, q // (C * C * K)
            sent[i, c] += 1
            received[j, d] += 1
            actions[a, k] += 1
            times[t, r] += 1
            blocks[r, k, c, d] += 1


@njit(cache=True)
def _component_by_logs(
    send: np.ndarray, receive: np.ndarray, phi: np.ndarray, psi: np.ndarray, rng: np.random.Generator
) -> int:
    """Component of a CP model where all products underflow, drawn as :func:`_pick_by_logs` does."""
    best, pick = -np.inf, 0
    for q in range(psi.size):
        value = np.log(send[q]) + np.log(receive[q]) + np.log(phi[q]) + np.log(psi[q])
        value -= np.log(-np.log(1.0 - rng.random()))
        if value > best:
            best, pick = value, q
    return pick


@njit(cache=True)
def allocate_components(
    coords: np.ndarray,
    values: np.ndarray,
    factors: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    rng: np.random.Generator,
    counts: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Tokens of a CP model: one of Q components each. ``counts`` has an (n, Q) array per mode."""
    send, receive, phi, psi = factors
    Q = send.shape[1]
    classes = np.empty(Q)
    for p in range(values.size):
        i, j, a, t = coords[p, 0], coords[p, 1], coords[p, 2], coords[p, 3]
        total = 0.0
        for q in range(Q):
            total += send[i, q] * receive[j, q] * phi[a, q] * psi[t, q]
            classes[q] = total
        for _ in range(values[p]):
            q = _pick(classes, Q, rng) if total > 0.0 else _component_by_logs(send[i], receive[j], phi[a], psi[t], rng)
            counts[0][i, q] += 1
            counts[1][j, q] += 1
            counts[2][a, q] += 1
            counts[3][t, q] += 1


@njit(cache=True)
def update_actors(
    theta: np.ndarray,
    alpha: np.ndarray,
    counts: np.ndarray,
    core_R: np.ndarray,
    weights_R: np.ndarray,
    beta: float,
    e: float,
    f: float,
    fix_alpha: bool,
    fix_theta: bool,
    rng: np.random.Generator,
) -> None:
    """Actor by actor, in place: alpha_i with theta_i integrated out, then theta_i given it.

    ``counts`` (V, C) are tokens sent and received, ``core_R`` (R, C, C) is lambda summed over topics, ``weights_R``
    (R, V, V) are sum_t psi_tr M_tij. The rate of theta_ic beside beta is sum_r [L_r x + L_r' y]_c, x and y the other
    actors' memberships weighted by whom i sends to and receives from.
    """
    V, C = theta.shape
    R = core_R.shape[0]
    rate, x, y = np.empty(C), np.empty(C), np.empty(C)
    for i in range(V):
        rate[:] = 0.0
        for r in range(R):
            x[:] = 0.0
            y[:] = 0.0
            for j in range(V):
                to, back = weights_R[r, i, j], weights_R[r, j, i]
                if j != i and (to > 0.0 or back > 0.0):
                    for c in range(C):
                        x[c] += to * theta[j, c]
                        y[c] += back * theta[j, c]
            for c in range(C):
                for d in range(C):
                    rate[c] += core_R[r, c, d] * x[d] + core_R[r, d, c] * y[d]
        if not fix_alpha:
            tables, logs = 0, 0.0
            for c in range(C):
                tables += crt_draw(counts[i, c], alpha[i], rng)
                logs += np.log1p(rate[c] / beta)
            alpha[i] = gamma_draw(e + tables, f + logs, rng)
        if not fix_theta:
            for c in range(C):
                theta[i, c] = gamma_draw(alpha[i] + counts[i, c], beta + rate[c], rng)


@njit(cache=True)
def update_community_weights(
    eta_d: np.ndarray,
    eta_a: np.ndarray,
    counts: np.ndarray,
    rho: np.ndarray,
    nu_total: float,
    logs: np.ndarray,
    gamma0: float,
    zeta: float,
    fix_d: bool,
    fix_a: bool,
    rng: np.random.Generator,
) -> None:
    """Community by community, in place: eta_a_c, then eta_d_c, with the core integrated out.

    ``counts`` (R, C, C) are tokens summed over topics; ``logs`` (C, C) = sum_r rho_r nu. log(1 + exposure_rcd / delta).
    """
    R, C = rho.size, eta_d.size
    for c in range(C):
        if not fix_a:
            tables = 0
            for r in range(R):
                tables += crt_draw(counts[r, c, c], rho[r] * nu_total * eta_d[c] * eta_a[c], rng)
            eta_a[c] = gamma_draw(gamma0 + tables, zeta + eta_d[c] * logs[c, c], rng)
        if not fix_d:
            tables, rate = 0, zeta + eta_a[c] * logs[c, c]
            for r in range(R):
                tables += crt_draw(counts[r, c, c], rho[r] * nu_total * eta_d[c] * eta_a[c], rng)
            for d in range(C):
                if d != c:
                    for r in range(R):
                        shape = rho[r] * nu_total * eta_d[c] * eta_d[d]
                        tables += crt_draw(counts[r, c, d], shape, rng) + crt_draw(counts[r, d, c], shape, rng)
                    rate += eta_d[d] * (logs[c, d] + logs[d, c])
            eta_d[c] = gamma_draw(gamma0 + tables, rate, rng)
