"""Counts of events between actors: sender x receiver x action x time step.

Every loader returns a :class:`CountTensor`. Which events are held out is the experiment's to draw
(:func:`tensorbench.decomposition.counts.splits.thin_split`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tensorbench.core.data import DataError, File, dataset, safe_numpy_load
from tensorbench.decomposition.counts.state import State, rates

_ICEWS = {
    "repository": "nec-research/TKG-Forecasting-Evaluation",
    "commit": "4dcfa2154bc6076dcb3bcf9ab8c4989a47210262",
    "licence": "none stated; public event data",
}
# Names of the state's fields in the authors' file, which is of an older version than their code.
_OLD_NAMES = {
    "Theta_VC": "Theta_NC",
    "Phi_AK": "Phi_AK",
    "Psi_TR": "Psi_TR",
    "Lambda_RKCC": "Lambda_RKCC",
    "eta_d_C": "W_d_C",
    "eta_a_C": "W_a_C",
    "nu_K": "W_K",
    "rho_R": "W_R",
    "alpha_V": "A_N",
    "beta": "b",
    "delta": "d",
    "zeta": "beta",
}


@dataclass(frozen=True)
class CountTensor:
    """``counts`` (V, V, A, T), int64, with a zero diagonal; ``truth`` is the state they were drawn from, if known.

    ``new_months``: so many of the last time steps are to be predicted from the others and from what passes in them
    among the ``active`` most active actors; 0 leaves the split to the experiment.
    """

    counts: np.ndarray
    actors: tuple[str, ...]
    actions: tuple[str, ...]
    truth: State | None = None
    new_months: int = 0
    active: int = 0


def read_state(path: Path) -> State:
    """The authors' published sample of the posterior (249 actors, 20 actions, 72 months, C = 20, K = 6, R = 1)."""
    file = safe_numpy_load(path)
    if missing := set(_OLD_NAMES.values()) - set(file):
        raise DataError(f"{path} is not the authors' sample: it lacks {', '.join(sorted(missing))}")
    values = {new: np.asarray(file[old], dtype=np.float64) for new, old in _OLD_NAMES.items()}
    return State(**{name: float(value) if value.ndim == 0 else value for name, value in values.items()})


@dataset(
    title="Counts drawn from a published posterior sample, country × country × action × month",
    source="posterior of GDELT 1995-2000 by the authors of BPTD; counts drawn here",
    licence="MIT",
    files=[
        File(
            repository="aschein/bptd",
            commit="811f26d9de75cfcc181c1b6b30dd62fe15bb5e3c",
            path="dat/state_sample.npz",
            sha256="16a912aad563d491426a83a7d39d50fc83a943d144e006eb1d8b2f704d2682a4",
            bytes=74846,
            licence="MIT",
        )
    ],
)
def bptd_posterior(files: list[Path], *, seed: int, actors: int = 40, months: int = 24) -> CountTensor:
    """Poisson counts in the first months of the actors with the largest memberships (sum of theta over communities).

    About 98,600 events in 42,300 cells at the default size.
    """
    state = read_state(files[0])
    V, A, T, *_ = state.dims
    if not 2 <= actors <= V or not 1 <= months <= T:
        raise ValueError(f"actors={actors} and months={months} must be at most {V} and {T}, at least 2 and 1")
    active = np.argsort(-state.Theta_VC.sum(axis=1), kind="stable")[:actors]
    part = state.part(active, np.arange(months))
    counts = np.random.default_rng(seed).poisson(rates(part))
    return CountTensor(counts, tuple(f"country {i}" for i in active), tuple(f"action {a + 1}" for a in range(A)), part)


@dataset(
    title="ICEWS14 events, actor × actor × action × month",
    source="ICEWS 2014 as prepared for temporal knowledge graphs",
    licence="none stated; public event data",
    files=[
        File(path=f"data/ICEWS14/{name}.txt", sha256=digest, bytes=size, **_ICEWS)
        for name, digest, size in (
            ("train", "09d9ec8df4b779e9793229d240a79c762c5c6f7846b31ee5f2522413a6595d57", 1360548),
            ("valid", "bb9462c02b6fb56f15822692ab9f80d782d6c2cc89e5ed7a83bae2c6022cab66", 155425),
            ("test", "a72ddd5cc3c86105d48b76620a1c08223fcdc43ef57d1eb9e10b27fd05b471ab", 135289),
            ("entity2id", "0251b09f1c2e56cdc5506f9d7f83e7a88d5d54c3df25609ae8ce4edb7fb3e573", 198027),
            ("relation2id", "32fcce0906d05205824f03e980981436a71a85feba72a817f5291e4afda9d04e", 7626),
        )
    ],
)
def icews14_events(
    files: list[Path], *, seed: int, actors: int = 60, actions: int = 20, new_months: int = 0, active: int = 20
) -> CountTensor:
    """Events of 2014 among the most active actors, in the most frequent action types, by twelfth of the year.

    16,921 events in 7,946 cells at the default size, whatever the seed. Events of an actor with itself are dropped
    before anything is ranked. ``new_months`` and ``active`` are passed on (:class:`CountTensor`).
    """
    parts = [np.loadtxt(file, dtype=np.int64, usecols=(0, 1, 2, 3)) for file in files[:3]]
    subject, relation, target, hours = np.concatenate(parts).T
    other = subject != target
    subject, relation, target, hours = subject[other], relation[other], target[other], hours[other]
    names = [_names(file) for file in files[3:]]
    if not 2 <= actors <= len(names[0]) or not 1 <= actions <= len(names[1]):
        raise ValueError(f"actors={actors} and actions={actions} must be at most {len(names[0])} and {len(names[1])}")
    top = _most_frequent(np.concatenate([subject, target]), actors)
    types = _most_frequent(relation, actions)
    place, kind = np.full(len(names[0]), -1), np.full(len(names[1]), -1)
    place[top], kind[types] = np.arange(actors), np.arange(actions)
    keep = (place[subject] >= 0) & (place[target] >= 0) & (kind[relation] >= 0)
    month = hours // 24 * 12 // 365
    counts = np.zeros((actors, actors, actions, 12), dtype=np.int64)
    np.add.at(counts, (place[subject[keep]], place[target[keep]], kind[relation[keep]], month[keep]), 1)
    kept = tuple(names[0][i] for i in top), tuple(names[1][i] for i in types)
    return CountTensor(counts, *kept, new_months=new_months, active=active)


def _names(path: Path) -> list[str]:
    rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines() if line]
    out = [""] * (1 + max(int(number) for _, number in rows))
    for name, number in rows:
        out[int(number)] = name.replace("_", " ")
    return out


def _most_frequent(values: np.ndarray, size: int) -> np.ndarray:
    return np.argsort(-np.bincount(values), kind="stable")[:size]


@dataset(
    title="Counts among actors of planted communities", source="generated here", licence="Apache-2.0", generated=True
)
def planted_communities(
    *,
    seed: int,
    actors: int = 30,
    actions: int = 10,
    months: int = 12,
    communities: int = 6,
    topics: int = 3,
    regimes: int = 2,
    events: int = 40_000,
) -> CountTensor:
    """About ``events`` events of a Poisson Tucker model whose actors belong mostly to one community, in equal numbers.

    One part in ten of an actor's activity is spread over the other communities; core and topics are gamma distributed
    with shape 0.3, so that some pairs of communities hardly interact; the activity of regimes varies from month to
    month.
    """
    sizes = (actors, actions, months, communities, topics, regimes)
    if min(sizes) < 1 or actors < max(2, communities) or events < 1:
        raise ValueError(f"sizes {sizes} and events={events}: at least 1 each, and an actor for each community")
    rng = np.random.default_rng(seed)
    from tensorbench.decomposition.counts.conditionals import Prior, prior_sample

    state = prior_sample(sizes, Prior(e=1.0, f=1.0), rng, beta=1.0, delta=1.0, zeta=1.0)
    home = np.arange(actors) % communities
    activity = rng.gamma(2.0, 0.5, actors)
    spread = 0.1 * rng.dirichlet(np.full(communities, 0.3), actors)
    state.Theta_VC[:] = activity[:, None] * (0.9 * np.eye(communities)[home] + spread)
    state.Phi_AK[:] = rng.dirichlet(np.full(actions, 0.3), topics).T
    state.Psi_TR[:] = rng.gamma(1.0, 1.0, (months, regimes))
    state.Lambda_RKCC[:] = rng.gamma(0.3, 1.0, state.Lambda_RKCC.shape) + 0.01
    state.Lambda_RKCC *= events / rates(state).sum()
    return CountTensor(
        rng.poisson(rates(state)),
        tuple(f"actor {i + 1}" for i in range(actors)),
        tuple(f"action {a + 1}" for a in range(actions)),
        state,
    )
