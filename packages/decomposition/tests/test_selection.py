"""Matching of CP components: invariances, partial matches, alignment."""

from itertools import permutations

import numpy as np
import pytest

from tensorbench.decomposition.selection import align, factor_match_score, match_components

DIMS, RANK = (5, 4, 6), 4


def factors(seed=0, rank=RANK):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((d, rank)) for d in DIMS]


def test_score_ignores_order_sign_and_scale():
    rng, a = np.random.default_rng(1), factors()
    order = rng.permutation(RANK)
    b = [f[:, order] * rng.uniform(0.5, 2, RANK) * rng.choice([-1, 1], RANK) for f in a]
    match = match_components(a, b)
    assert match.score == pytest.approx(1.0, abs=1e-14)
    assert (order[match.estimate] == match.reference).all()


def test_matching_is_the_best_of_all_permutations():
    a, b = factors(0), factors(5)
    cosine = np.prod(
        [
            np.abs((x / np.linalg.norm(x, axis=0)).T @ (y / np.linalg.norm(y, axis=0)))
            for x, y in zip(a, b, strict=True)
        ],
        axis=0,
    )
    best = max(np.mean(cosine[range(RANK), list(p)]) for p in permutations(range(RANK)))
    assert factor_match_score(a, b) == pytest.approx(best, abs=1e-14)


def test_missing_components_count_as_zero():
    a = factors()
    assert factor_match_score(a, [f[:, :3] for f in a]) == pytest.approx(3 / 4)


def test_weights_lower_the_score_by_their_relative_difference():
    a = [f / np.linalg.norm(f, axis=0) for f in factors()]
    assert factor_match_score(a, a, np.ones(RANK), np.full(RANK, 0.5)) == pytest.approx(0.5)
    assert factor_match_score(a, a, np.ones(RANK), -np.ones(RANK)) == pytest.approx(1.0)


def test_alignment_recovers_the_reference():
    a, order = factors(), [2, 0, 3, 1]
    b = [f[:, order] * np.array([-2.0, 0.5, 3.0, -1.0]) for f in a]
    for x, y in zip(a, align(a, b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (factors(), factors()[:2], "3 and 2 factors"),
        (factors(), [f[:-1] for f in factors()], "rows must agree"),
        ([], [], "at least one"),
    ],
)
def test_bad_input_teaches(a, b, message):
    with pytest.raises(ValueError, match=message):
        match_components(a, b)
