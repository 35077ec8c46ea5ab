"""Word vectors by the continuous bag of words with negative sampling, at a finite or at infinite width.

Mikolov et al. (2013), arXiv 1301.3781, 1310.4546. The network is linear with one hidden layer on one-hot words, and
its muP limit is exact (Yang, Hu 2021, arXiv 2011.14522): hidden vectors are combinations of one independent normal
coordinate a word, so the limit is the same training with the identity as input table (words x words) and zeros as
output table. A finite width n starts from independent entries of variance 1/n (uniform in +-sqrt(3/n), as the
authors'), zeros in the output table, and the same learning rate.

A position's input is the mean of the vectors in a window of random size; its loss is -log sigmoid of the product with
the word's output vector, and -log(1 - sigmoid) for ``negative`` words drawn by counts to the 3/4. Frequent words are
skipped at random. The learning rate falls linearly to zero over all epochs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numba import njit

LARGEST_ONE_HOT = 20_000  # words of a network of infinite width
_SENTENCE = 1000  # words after which the window starts anew, as in word2vec
_TABLE = 1 << 20  # entries of the table that negative words are drawn from
_CLIP = 6.0  # beyond, the sigmoid counts as 0 or 1, as in word2vec
_LAST_RATE = 1e-4  # the learning rate never falls below this share of the first


@dataclass(frozen=True)
class Corpus:
    """A text as word numbers (rarer words left out), the words by falling count, and the counts."""

    tokens: Int[np.ndarray, " tokens"]
    words: tuple[str, ...]
    counts: Int[np.ndarray, " words"]


def corpus(words: Sequence[str], min_count: int = 5, largest: int | None = None) -> Corpus:
    """The text with the words that occur ``min_count`` times or more, at most the ``largest`` most frequent.

    Raises:
        ValueError: fewer than two words are left.
    """
    ranked = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
    kept = [(word, count) for word, count in ranked if count >= min_count][:largest]
    if len(kept) < 2:
        raise ValueError(f"only {len(kept)} words occur {min_count} times or more; lower min_count or give more text")
    number = {word: k for k, (word, _) in enumerate(kept)}
    tokens = np.array([number[word] for word in words if word in number], dtype=np.int32)
    return Corpus(tokens, tuple(number), np.array([count for _, count in kept], dtype=np.int64))


class CBOW:
    """``dim`` is the width, or ``"inf"``. ``train`` runs all epochs; draws do not depend on the width.

    Attributes ``input`` and ``output`` are the tables (words x dim), float32.

    Raises:
        ValueError: a width, window, number of negatives or rate that makes no sense, or an infinite width with more
            than 20,000 words (two square tables).
    """

    input: Float[np.ndarray, "words dim"]
    output: Float[np.ndarray, "words dim"]

    def __init__(
        self,
        corpus: Corpus,
        dim: int | Literal["inf"],
        window: int = 8,
        negative: int = 25,
        subsample: float = 1e-4,
        lr: float = 0.05,
        wd: float = 1e-3,
        *,
        seed: int = 0,
    ) -> None:
        words = len(corpus.counts)
        if dim == "inf":
            if words > LARGEST_ONE_HOT:
                gib = 2 * words**2 * 4 / 2**30
                raise ValueError(
                    f"infinite width needs two tables of {words} x {words} ({gib:.1f} GiB); at most {LARGEST_ONE_HOT}"
                )
        elif isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim {dim!r} must be a whole number of at least 1, or 'inf'")
        if window < 1 or negative < 1:
            raise ValueError(f"window {window} and negative {negative} must be at least 1")
        if not (lr > 0 and wd >= 0 and subsample >= 0 and math.isfinite(lr * wd) and lr * wd < 1):
            raise ValueError(f"lr {lr} must be positive, wd {wd} and subsample {subsample} at least 0, lr * wd < 1")
        self.corpus, self.dim = corpus, dim
        self.window, self.negative, self.subsample = window, negative, subsample
        self.lr, self.wd, self.seed = lr, wd, seed
        if dim == "inf":
            self.input = np.eye(words, dtype=np.float32)
        else:
            draws = np.random.default_rng([seed, dim]).uniform(-1, 1, (words, dim))
            self.input = (draws * math.sqrt(3 / dim)).astype(np.float32)
        self.output = np.zeros_like(self.input)

    def train(self, epochs: int = 1) -> list[float]:
        """Mean loss of a position in nats (summed over the word and its negatives) in each epoch."""
        if epochs < 1:
            raise ValueError(f"epochs {epochs} must be at least 1")
        counts, tokens = self.corpus.counts, self.corpus.tokens
        share = counts / counts.sum()
        keep = np.ones(len(counts))
        if self.subsample > 0:
            keep = np.minimum(1.0, np.sqrt(self.subsample / share) + self.subsample / share)
        weight = np.cumsum(counts**0.75)
        table = np.searchsorted(weight / weight[-1], (np.arange(_TABLE) + 0.5) / _TABLE).astype(np.int32)
        losses = []
        for epoch in range(epochs):
            loss, positions = _epoch(
                self.input, self.output, tokens, keep, table, self.window, self.negative, self.lr, self.wd,
                epoch / epochs, 1 / epochs, np.uint64(1 + self.seed * 1_000_003 + epoch),
            )  # fmt: skip
            losses.append(loss / max(positions, 1))
        return losses

    def neighbours(self, words: Int[np.ndarray, " asked"], k: int = 10) -> Int[np.ndarray, "asked k"]:
        """The ``k`` other words of the largest cosine with each of ``words``, nearest first."""
        unit = self._unit()
        cosine = unit[words] @ unit.T
        cosine[np.arange(len(words)), words] = -np.inf
        return np.argsort(-cosine, axis=1, kind="stable")[:, :k]

    def analogy_accuracy(self, questions: Sequence[tuple[str, str, str, str]]) -> tuple[float, int]:
        """a is to b as c is to d: share of questions whose d is nearest to b - a + c, and how many could be asked."""
        number = {word: k for k, word in enumerate(self.corpus.words)}
        asked = np.array([[number[w] for w in q] for q in questions if all(w in number for w in q)], dtype=int)
        if not len(asked):
            return math.nan, 0
        unit = self._unit()
        a, b, c, d = asked.T
        score = (unit[b] - unit[a] + unit[c]) @ unit.T
        for column in (a, b, c):
            score[np.arange(len(asked)), column] = -np.inf
        return float((score.argmax(1) == d).mean()), len(asked)

    def _unit(self) -> np.ndarray:
        return self.input / np.maximum(np.linalg.norm(self.input, axis=1, keepdims=True), 1e-30)


@njit(inline="always")
def _next(state):  # splitmix64: a new state, and 64 random bits from it
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@njit(fastmath=True, cache=True)
def _epoch(table_in, table_out, tokens, keep, negatives, window, negative, rate, wd, start, span, seed):
    """One pass; returns the summed loss and the number of positions."""
    state = seed
    dim = table_in.shape[1]
    hidden, back = np.empty(dim, np.float32), np.empty(dim, np.float32)
    sentence = np.empty(_SENTENCE, np.int32)
    at, total, positions = 0, 0.0, 0
    while at < len(tokens):
        lr = rate * max(1.0 - (start + span * at / len(tokens)), _LAST_RATE)
        decay = np.float32(1.0 - lr * wd)
        length = 0
        while at < len(tokens) and length < _SENTENCE:
            word = tokens[at]
            at += 1
            state, bits = _next(state)
            if (bits >> np.uint64(11)) * (1.0 / 9007199254740992.0) < keep[word]:
                sentence[length] = word
                length += 1
        for p in range(length):
            word = sentence[p]
            state, bits = _next(state)
            reach = 1 + int(bits % np.uint64(window))
            first, last = max(0, p - reach), min(length - 1, p + reach)
            context = last - first
            if context == 0:
                continue
            hidden[:] = 0
            back[:] = 0
            for q in range(first, last + 1):
                if q != p:
                    row = table_in[sentence[q]]
                    for k in range(dim):
                        hidden[k] += row[k]
            scale = np.float32(1.0 / context)
            for k in range(dim):
                hidden[k] *= scale
            positions += 1
            for sample in range(negative + 1):
                target = word
                if sample > 0:
                    state, bits = _next(state)
                    target = negatives[bits & np.uint64(_TABLE - 1)]
                    if target == word:
                        continue
                row = table_out[target]
                score = np.float32(0)
                for k in range(dim):
                    score += hidden[k] * row[k]
                signed = score if sample == 0 else -score
                if signed > -30:
                    total += math.log1p(math.exp(-signed))
                else:
                    total -= float(signed)
                chance = 1.0 if score > _CLIP else 0.0 if score < -_CLIP else 1.0 / (1.0 + math.exp(-score))
                g = np.float32(((1.0 if sample == 0 else 0.0) - chance) * lr)
                for k in range(dim):
                    back[k] += g * row[k]
                    row[k] = row[k] * decay + g * hidden[k]
            for q in range(first, last + 1):
                if q != p:
                    row = table_in[sentence[q]]
                    for k in range(dim):
                        row[k] = row[k] * decay + back[k] * scale
    return total, positions
