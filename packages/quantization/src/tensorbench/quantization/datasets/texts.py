"""Texts that are always there: drawn from a chain whose entropy is known, so that a loss can be read against it."""

from __future__ import annotations

import numpy as np

from tensorbench.core.data import dataset
from tensorbench.core.data.shared import TokenText


@dataset(title="Text from a second-order Markov chain", source="generated here", licence="Apache-2.0", generated=True)
def markov_text(*, seed: int, characters: int = 200_000, kinds: int = 32, successors: int = 8) -> TokenText:
    """Tokens of ``kinds`` kinds; each pair of them is followed by one of ``successors`` with Zipf's probabilities.

    A seed has its own chain. First 90 % train, then 5 % validation and 5 % test, as the other texts.
    """
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, successors + 1)
    edges = np.cumsum(weights / weights.sum())
    # The last character alone decides which kinds may follow; the one before it in which order they are likely.
    allowed = np.argsort(rng.random((kinds, kinds)), axis=1)[:, :successors]
    order = np.argsort(rng.random((kinds, kinds, successors)), axis=2)
    draws = np.minimum(np.searchsorted(edges, rng.random(characters), side="right"), successors - 1)
    tokens = np.empty(characters, dtype=np.int64)
    before, last = 0, 0
    for k, draw in enumerate(draws):
        before, last = last, allowed[last, order[before, last, draw]]
        tokens[k] = last
    train, valid, test = np.split(tokens, [characters * 90 // 100, characters * 95 // 100])
    return TokenText(train, valid, test, tuple(chr(33 + k) for k in range(kinds)))
