"""Indices of AdANNS: against brute force, faiss and hnswlib; budgets, cost counters, bad input."""

import numpy as np
import pytest

from tensorbench.quantization.adanns.adaptive import AdaptiveQuery, cascade
from tensorbench.quantization.adanns.composite import HNSWOPQ, IVFOPQ
from tensorbench.quantization.adanns.graph import HNSW, VamanaLite
from tensorbench.quantization.adanns.index import ExactL2
from tensorbench.quantization.adanns.ivf import IVF, MGIVF, invert
from tensorbench.quantization.adanns.kmeans import kmeans, lloyd
from tensorbench.quantization.adanns.tuner import IVFFamily, Trial, best_within, cheapest_reaching, ivf_grid, pareto
from tensorbench.quantization.adanns.vectors import nearest, prefix
from tensorbench.quantization.datasets.retrieval import clustered_vectors

N, D = 1200, 32


@pytest.fixture(scope="module")
def made():
    return clustered_vectors(seed=1, n=N, queries=60, dims=D, centres=30)


@pytest.fixture(scope="module")
def x(made):
    return made["database"]


@pytest.fixture(scope="module")
def q(made):
    return made["queries"]


def brute(x, q, d, k):
    """Ids of the k nearest by prefixes, in float64."""
    a, b = (v[:, :d].astype(np.float64) for v in (x, q))
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return np.argsort(((b[:, None] - a[None]) ** 2).sum(axis=2), axis=1, kind="stable")[:, :k]


# --- selection and prefixes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 31, 33, 500, 4100])
@pytest.mark.parametrize("k", [1, 3, 20])
def test_nearest_is_a_full_sort(n, k):
    values = np.random.default_rng(n + k).standard_normal((9, n)).astype(np.float32)
    got, columns = nearest(values, k)
    order = np.argsort(values, axis=1)[:, :k]
    there = min(n, k)
    np.testing.assert_array_equal(columns[:, :there], order)
    np.testing.assert_array_equal(got[:, :there], np.take_along_axis(values, order, axis=1))
    assert (columns[:, there:] == -1).all() and np.isinf(got[:, there:]).all()


def test_a_prefix_is_scaled_anew(x):
    part = prefix(x, 8)
    np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, atol=1e-6)
    assert np.abs(part - x[:, :8]).max() > 0.01  # the prefix of a unit vector is shorter than one
    np.testing.assert_allclose(prefix(5 * x, 8), part, atol=1e-6)


# --- exact and inverted files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 8, D])
def test_exact_is_brute_force(x, q, d):
    found = ExactL2(d).add(x).search(q, 10)
    np.testing.assert_array_equal(found.ids, brute(x, q, d, 10))
    assert (found.macs == N * d).all() and ExactL2(d).add(x).cost() == N * d


def test_exact_is_faiss(x, q):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatL2(D)
    index.add(x)
    distances, ids = index.search(q, 10)
    found = ExactL2().add(x[:500]).add(x[500:]).search(q, 10)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.distances, distances, atol=2e-6)


@pytest.mark.parametrize(("d_c", "d_s"), [(4, 16), (16, 4), (D, D)])
def test_all_cells_visited_is_exact(x, q, d_c, d_s):
    found = IVF(d_c, d_s, 12).train(x).add(x[:700]).add(x[700:]).search(q, 10, n_probe=12)
    np.testing.assert_array_equal(found.ids, brute(x, q, d_s, 10))


@pytest.mark.parametrize("n_probe", [1, 3])
def test_equal_dimensions_are_faiss_with_the_same_centroids(x, q, n_probe):
    faiss = pytest.importorskip("faiss")
    ours = IVF(D, D, 16, seed=3).train(x).add(x)
    quantizer = faiss.IndexFlatL2(D)
    quantizer.add(ours.centroids)
    index = faiss.IndexIVFFlat(quantizer, D, 16)
    index.train(x)
    index.add(x)
    index.nprobe = n_probe
    np.testing.assert_array_equal(ours.search(q, 10, n_probe=n_probe).ids, index.search(q, 10)[1])


def test_the_cost_counter_counts(x, q):
    index = IVF(4, 16, 10).train(x).add(x)
    found = index.search(q, 5, n_probe=3)
    coarse = prefix(q, 4)
    cells = np.argmin(((prefix(x, 4)[:, None] - index.centroids) ** 2).sum(axis=2), axis=1)
    for row in range(len(q)):
        probes = np.argsort(((coarse[row] - index.centroids) ** 2).sum(axis=1))[:3]
        members = np.isin(cells, probes).sum()
        assert found.evaluations[row] == 10 + members
        assert found.macs[row] == 10 * 4 + members * 16
        assert set(found.ids[row]) <= set(np.flatnonzero(np.isin(cells, probes)))
    sizes = index.lists.sizes
    assert index.cost(n_probe=3) == 10 * 4 + 3 / 10 * N * 16
    assert sizes.sum() == N and index.bytes_per_vector == 64


def test_fewer_candidates_than_asked_for(x, q):
    found = IVF(8, 8, 40).train(x).add(x[:50]).search(q, 20, n_probe=1)
    assert (found.ids == -1).any() and np.isinf(found.distances[found.ids == -1]).all()
    exact = ExactL2().add(x[:5]).search(q, 8)
    assert (exact.ids[:, 5:] == -1).all() and (exact.ids[:, :5] >= 0).all()


def test_two_encoders_of_the_same_vectors_are_one(x, q):
    ours = IVF(8, 16, 12, seed=2).train(x).add(x).search(q, 10, n_probe=2)
    pairs = [(prefix(v, 8), prefix(v, 16)) for v in (x, q)]
    other = MGIVF(12, seed=2).train(pairs[0]).add(pairs[0]).search(pairs[1], 10, n_probe=2)
    np.testing.assert_array_equal(ours.ids, other.ids)
    np.testing.assert_array_equal(ours.macs, other.macs)


def test_no_cluster_is_lost():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((300, 4)) * 0.01, rng.standard_normal((3, 4)) + 50]).astype(np.float32)
    bad = np.concatenate([np.full((1, 7, 4), 1e4), np.zeros((1, 1, 4))], axis=1).astype(np.float32)  # seven are empty
    centroids = lloyd(x[None], bad, 20)[0]
    labels = np.argmin(((x[:, None] - centroids) ** 2).sum(axis=2), axis=1)
    assert (np.bincount(labels, minlength=8) > 0).sum() >= 7


def test_kmeans_is_as_good_as_scikit_learn(x):
    cluster = pytest.importorskip("sklearn.cluster")
    ours = kmeans(x, 20, iterations=40)
    cost = ((x[:, None] - ours) ** 2).sum(axis=2).min(axis=1).sum()
    theirs = [cluster.KMeans(20, init="random", n_init=1, random_state=s).fit(x).inertia_ for s in range(5)]
    assert cost < 1.05 * max(theirs)


# --- query-time dimensions --------------------------------------------------------------------------------------------


def test_adaptive_query_on_the_full_index(x, q):
    built = IVF(D, D, 12).train(x).add(x)
    adaptive = AdaptiveQuery(built)
    everything = adaptive.search(q, 10, d_c=4, d_s=8, n_probe=12)
    np.testing.assert_array_equal(everything.ids, brute(x, q, 8, 10))
    found = adaptive.search(q, 10, d_c=4, d_s=8, n_probe=2)
    assert (found.macs < everything.macs).all()
    whole, own = adaptive.search(q, 10, d_c=D, d_s=D, n_probe=2), built.search(q, 10, n_probe=2)
    np.testing.assert_array_equal(whole.ids, own.ids)  # in full length it is the index itself
    assert (found.macs - 12 * 4) % 8 == pytest.approx(0)
    with pytest.raises(ValueError, match="d_s = 64"):
        adaptive.search(q, 10, d_c=4, d_s=64)


def test_a_cascade_with_full_shortlists_is_exact(x, q):
    found = cascade(x, q, [2, 8, D], [N, N], 10)
    np.testing.assert_array_equal(found.ids, brute(x, q, D, 10))
    short = cascade(x, q, [8, 16, D], [200, 50], 10)
    assert (short.macs == N * 8 + 200 * 16 + 50 * D).all()
    hits = [len(set(a) & set(b)) for a, b in zip(short.ids, found.ids, strict=True)]
    assert np.mean(hits) > 9


# --- composites and graphs --------------------------------------------------------------------------------------------


def test_ivfopq_with_all_cells_is_opq(x, q):
    index = IVFOPQ(8, 16, 4, 12, nbits=4, rounds=2).train(x).add(x)
    all_cells, codes = index.search(q, 5, n_probe=12), index.codes.search(q, 5)
    np.testing.assert_allclose(all_cells.distances, codes.distances, atol=1e-5)
    again = IVFOPQ.of(index.cells, index.codes).search(q, 5, n_probe=12)
    np.testing.assert_array_equal(again.ids, all_cells.ids)
    assert index.bytes_per_vector == 2
    members = index.cells.lists.sizes.sum()
    assert all_cells.macs[0] == 12 * 8 + 16 * 16 + 16 * 16 + 4 * members


@pytest.mark.parametrize("library", ["faiss", "hnswlib", "usearch"])
def test_hnsw_recall(x, q, library):
    pytest.importorskip(library)
    truth = brute(x, q, 16, 10)
    found = HNSW(16, library=library).add(x).search(q, 10, ef=200)
    hits = np.mean([len(set(a) & set(b)) for a, b in zip(found.ids, truth, strict=True)]) / 10
    assert hits >= 0.95
    few = HNSW(16, library=library).add(x[:6]).search(q, 10)
    assert (few.ids[:, 6:] == -1).all() and (few.ids[:, :6] >= 0).all()


def test_vamana_finds_what_exact_search_does(x, q):
    index = VamanaLite(16, 16, 16, nbits=8, degree=16, width=30, rounds=1).train(x).add(x)
    truth = brute(x, q, 16, 10)
    hits = [np.mean([len(set(a) & set(b)) for a, b in zip(index.search(q, 10, beam=w).ids, truth, strict=True)]) / 10
            for w in (10, 100)]  # fmt: skip
    assert hits[1] >= 0.95 and hits[1] >= hits[0]
    assert (index.counts <= 24).all() and (index.counts >= 1).all()
    rows = index.neighbours
    for vertex in range(0, N, 97):
        mine = rows[vertex, : index.counts[vertex]]
        assert vertex not in mine and len(set(mine)) == len(mine)
    assert (index.search(q, 10, beam=100).evaluations < N).all()
    distances = index.search(q, 3, beam=50)
    exact = ((prefix(q, 16)[:, None] - prefix(x, 16)[distances.ids]) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances.distances, exact, atol=1e-5)  # re-ranked, not of codes


def test_hnswopq_ranks_by_codes(x, q):
    pytest.importorskip("faiss")
    index = HNSWOPQ(16, 8, nbits=4, rounds=2).train(x).add(x)
    found, codes = index.search(q, 5, ef=400), index.codes.add(x).search(q, 5)
    np.testing.assert_allclose(np.sort(found.distances)[:, 0], codes.distances[:, 0], rtol=0.05, atol=1e-3)
    assert np.mean(found.ids[:, 0] == codes.ids[:, 0]) > 0.5  # equal codes tie


# --- tuning -----------------------------------------------------------------------------------------------------------


def test_budgets_and_pareto():
    trials = [Trial({"n": n}, cost, score) for n, (cost, score) in enumerate([(1, 0.5), (2, 0.4), (3, 0.7), (4, 0.7)])]
    assert best_within(trials, 2).config == {"n": 0} and best_within(trials, 10).config == {"n": 2}
    assert [t.cost for t in pareto(trials)] == [1, 3]
    assert cheapest_reaching(trials, 0.6).cost == 3 and cheapest_reaching(trials, 0.9) is None
    with pytest.raises(ValueError, match="cheapest costs 1"):
        best_within(trials, 0.5)


def test_the_grid_keeps_to_the_budget_and_the_family_to_the_grid(x, q):
    configs = list(ivf_grid([4, 8], [8, 16], [1, 4], N, most=2000))
    assert configs and all(c["n_list"] * c["d_c"] + c["n_probe"] / c["n_list"] * N * c["d_s"] <= 2000 for c in configs)
    assert all(c["d_c"] == c["d_s"] for c in ivf_grid([4, 8], [8], [1], N, most=1e9, decoupled=False))
    parts = {"database": x, "valid": q}
    family = IVFFamily(lambda part, d: prefix(parts[part], d), lambda part, d: prefix(parts[part], d), seed=4)
    got = family.search("valid", 5, n_list=16, d_c=4, d_s=8, n_probe=2)
    want = IVF(4, 8, 16, seed=4).train(x).add(x).search(q, 5, n_probe=2)
    np.testing.assert_array_equal(got.ids, want.ids)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_told(x, q):
    index = IVF(8, 8, 16).train(x).add(x)
    with pytest.raises(ValueError, match="n_probe 17 must be between 1 and n_list 16"):
        index.search(q, 5, n_probe=17)
    with pytest.raises(ValueError, match="a prefix of 64 dimensions cannot be cut from vectors of 32"):
        IVF(64, 8, 16).train(x)
    with pytest.raises(ValueError, match="queries have 16 dimensions"):
        index.search(q[:, :16], 5)
    broken = x.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="row 7 holds NaN"):
        ExactL2().add(broken)
    with pytest.raises(ValueError, match="is empty; add vectors"):
        IVF(8, 8, 4).train(x).search(q, 1)
    with pytest.raises(ValueError, match="train it before"):
        IVF(8, 8, 4).add(x)
    with pytest.raises(ValueError, match="must be a matrix"):
        ExactL2().add(x[0])
    with pytest.raises(ValueError, match="are empty"):
        ExactL2().add(x[:0])
    with pytest.raises(ValueError, match="k = 0"):
        ExactL2().add(x).search(q, 0)
    with pytest.raises(ValueError, match="need at least as many training points"):
        IVF(8, 8, 64).train(x[:50])
    with pytest.raises(ValueError, match="did you mean 'hnswlib'"):
        HNSW(8, library="hnsw")
    with pytest.raises(ValueError, match="candidates may only shrink"):
        cascade(x, q, [2, 8], [5], 10)
    with pytest.warns(UserWarning, match="1200 training points for 64 centroids; at least 2496 are advised"):
        IVF(8, 8, 64).train(x)
    np.testing.assert_array_equal(invert(np.array([2, 0, 2]), 4).starts, [0, 1, 1, 3, 3])
