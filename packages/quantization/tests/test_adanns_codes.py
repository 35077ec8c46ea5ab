"""Codes, embeddings, metrics and faiss adapters of AdANNS."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tensorbench.quantization.adanns import metrics
from tensorbench.quantization.adanns.ivf import invert
from tensorbench.quantization.adanns.matryoshka import (
    Encoder,
    MatryoshkaCELoss,
    MatryoshkaHead,
    embed,
    svd_basis,
    train_encoder,
)
from tensorbench.quantization.adanns.pq import OPQ, PQ, decode, encode, look_up, tables, train_codebooks
from tensorbench.quantization.adanns.vectors import prefix
from tensorbench.quantization.datasets.retrieval import clustered_vectors

D = 32


@pytest.fixture(scope="module")
def made():
    return clustered_vectors(seed=2, n=1500, queries=50, dims=D, centres=30)


@pytest.fixture(scope="module")
def x(made):
    return made["database"]


@pytest.fixture(scope="module")
def q(made):
    return made["queries"]


# --- product quantisation ---------------------------------------------------------------------------------------------


def test_table_sums_are_distances_to_reconstructions(x, q):
    codebooks = train_codebooks(x, 8, 4, iterations=5)
    codes = encode(x, codebooks)
    exact = ((q[:, None] - decode(codes, codebooks)[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(look_up(tables(q, codebooks), codes), exact, atol=1e-5)


def test_codes_are_nearest_and_faisses(x):
    faiss = pytest.importorskip("faiss")
    codebooks = train_codebooks(x, 4, 8, iterations=4)
    pq = faiss.ProductQuantizer(D, 4, 8)
    from tensorbench.quantization.adanns.faiss_tools import copy_codebooks

    copy_codebooks(codebooks, pq)
    codes = encode(x, codebooks)
    np.testing.assert_array_equal(codes, pq.compute_codes(x))
    np.testing.assert_array_equal(decode(codes, codebooks), pq.decode(codes))
    with pytest.raises(ValueError, match="codebooks of shape"):
        copy_codebooks(codebooks[:2], pq)


@pytest.mark.parametrize("rounds", [1, 3, 8])
def test_opq_is_never_worse_than_pq(x, rounds):
    plain = PQ(16, 4, 4, iterations=5).train(x)
    rotated = OPQ(16, 4, 4, iterations=5, rounds=rounds).train(x)
    np.testing.assert_allclose(rotated.rotation.T @ rotated.rotation, np.eye(16), atol=1e-5)
    assert rotated.distortion(x) <= plain.distortion(x) * (1 + 1e-6)


def test_opq_undoes_a_rotation():
    rng = np.random.default_rng(0)
    corners = rng.standard_normal((4, 8, 4)).astype(np.float32)
    x = corners[np.arange(4), rng.integers(8, size=(2000, 4))].reshape(2000, 16)  # four independent parts of 8 values
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    turn = np.linalg.qr(rng.standard_normal((16, 16)))[0].astype(np.float32)
    plain = PQ(16, 4, 4, seed=1).train(x @ turn).distortion(x @ turn)
    assert OPQ(16, 4, 4, rounds=30, seed=1).train(x @ turn).distortion(x @ turn) < 0.8 * plain


def test_one_dimension_a_part_and_eight_bits_is_near_exact(x, q):
    index = PQ(8, 8, 8, iterations=15).train(x).add(x)
    assert index.distortion(x) < 2e-3
    part, query = prefix(x, 8), prefix(q, 8)
    exact = ((query[:, None] - part[None]) ** 2).sum(axis=2)
    found = index.search(q, 1)
    np.testing.assert_allclose(found.distances[:, 0], exact.min(axis=1), atol=0.03)
    assert index.bytes_per_vector == 8 and found.macs[0] == 256 * 8 + 8 * len(x) == index.cost()


def test_faisses_opq_is_not_better_by_much(x):
    faiss = pytest.importorskip("faiss")
    matrix = faiss.OPQMatrix(16, 4)
    matrix.niter, matrix.niter_pq, matrix.verbose = 8, 4, False
    matrix.pq = faiss.ProductQuantizer(16, 4, 4)
    part = prefix(x, 16)
    matrix.train(part)
    turned = matrix.apply(part)
    pq = faiss.ProductQuantizer(16, 4, 4)
    pq.train(turned)
    theirs = ((turned - pq.decode(pq.compute_codes(turned))) ** 2).sum(axis=1).mean()
    assert OPQ(16, 4, 4, rounds=8).train(x).distortion(x) < 1.1 * theirs


def test_bad_codes_are_told(x):
    with pytest.raises(ValueError, match=r"M = 5 parts do not divide 16 dimensions; use one of \[1, 2, 4, 8, 16\]"):
        PQ(16, 5, 4)
    with pytest.raises(ValueError, match="codes of 9 bits"):
        PQ(16, 4, 9)
    with pytest.raises(ValueError, match="train the index first"):
        PQ(16, 4, 4).add(x)
    with pytest.raises(ValueError, match="16 centroids need"):
        PQ(16, 4, 4).train(x[:10])


# --- Matryoshka -------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_of_its_parts():
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(20, 16, generator=generator), torch.arange(20) % 5
    head = MatryoshkaHead([2, 4, 16], 5)
    logits = head(z)
    weights = [0.5, 1.0, 2.0]
    want = sum(
        w * functional.cross_entropy(layer(z[:, :d]), y)
        for w, layer, d in zip(weights, head.classifiers, [2, 4, 16], strict=True)
    )
    torch.testing.assert_close(MatryoshkaCELoss(weights)(logits, y), want)
    torch.testing.assert_close(MatryoshkaCELoss()(logits[:1], y), functional.cross_entropy(logits[0], y))


def test_the_efficient_head_shares_weights():
    z = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    head = MatryoshkaHead([2, 8], 3, efficient=True)
    (shared,) = head.classifiers
    small, large = head(z)
    torch.testing.assert_close(small, z[:, :2] @ shared.weight[:, :2].T + shared.bias)
    torch.testing.assert_close(large, shared(z))
    small.sum().backward()
    assert (shared.weight.grad[:, :2] != 0).all() and (shared.weight.grad[:, 2:] == 0).all()
    assert sum(p.numel() for p in head.parameters()) == 3 * 8 + 3


def test_training_makes_every_prefix_an_embedding():
    rng = np.random.default_rng(0)
    middle, y = 2 * rng.standard_normal((6, 20)), rng.integers(6, size=600)
    x = (middle[y] + rng.standard_normal((600, 20))).astype(np.float32)
    model = train_encoder(x, y, [2, 4, 16], seed=3, hidden=32, epochs=6, batch=50, learning_rate=5e-3)
    z = embed(model, x)
    again = embed(train_encoder(x, y, [2, 4, 16], seed=3, hidden=32, epochs=6, batch=50, learning_rate=5e-3), x)
    np.testing.assert_array_equal(z, again)
    untrained = embed(Encoder(20, [16], 6, hidden=32), x)
    for d in (4, 16):
        part = prefix(z, d)
        same = y[np.argsort(part @ part.T, axis=1)[:, -2]] == y
        assert same.mean() > 0.8, d
    assert z.shape == untrained.shape == (600, 16)
    with pytest.raises(ValueError, match="labels must be one integer"):
        train_encoder(x, y[:, None], [2], seed=0)
    with pytest.raises(ValueError, match="ascending"):
        MatryoshkaHead([4, 2], 3)
    with pytest.raises(ValueError, match="have no prefix of 8"):
        MatryoshkaHead([8], 3)(torch.zeros(2, 4))


def test_svd_is_pca(x):
    decomposition = pytest.importorskip("sklearn.decomposition")
    mean, basis = svd_basis(x)
    want = decomposition.PCA(6).fit(x).transform(x)
    got = ((x - mean) @ basis)[:, :6]
    np.testing.assert_allclose(np.abs(got), np.abs(want), atol=1e-4)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_are_a_loop_over_queries():
    rng = np.random.default_rng(0)
    labels, query_labels = rng.integers(4, size=60), rng.integers(4, size=25)
    ids = np.stack([rng.permutation(60)[:12] for _ in range(25)])
    ids[3, 8:] = -1
    k = 10
    average, precision, recall, any_hit = [], [], [], []
    for row, label in zip(ids, query_labels, strict=True):
        hits, total = 0, 0.0
        for rank, number in enumerate(row[:k], start=1):
            if number >= 0 and labels[number] == label:
                hits += 1
                total += hits / rank
        average.append(total / k)
        precision.append(hits / k)
        recall.append(hits / (labels == label).sum())
        any_hit.append(hits > 0)
    arguments = (ids, labels, query_labels)
    assert metrics.mean_average_precision(*arguments, k) == pytest.approx(np.mean(average))
    assert metrics.precision(*arguments, k) == pytest.approx(np.mean(precision))
    assert metrics.recall(*arguments, k) == pytest.approx(np.mean(recall))
    assert metrics.top_k(*arguments, k) == pytest.approx(np.mean(any_hit))
    assert metrics.top1(*arguments) == pytest.approx(np.mean(labels[ids[:, 0]] == query_labels))


def test_average_precision_is_divided_by_k():
    labels, ids = np.array([1, 0, 1, 0]), np.array([[0, 1, 2, 3]])
    assert metrics.mean_average_precision(ids, labels, np.array([1]), 4) == pytest.approx((1 + 2 / 3) / 4)  # not / 2


def test_k_recall_counts_exact_neighbours():
    exact, ids = np.array([[1, 2, 3], [0, 5, 9]]), np.array([[3, 7, 1, 2], [9, -1, -1, -1]])
    assert metrics.k_recall_at_n(exact, ids, 2, 3) == pytest.approx(1 / 4)
    assert metrics.k_recall_at_n(exact, ids, 3) == pytest.approx(4 / 6)


def test_contrast_and_balance(x, q):
    exact = np.sqrt(((q[:, None] - x[None]) ** 2).sum(axis=2))
    contrast = metrics.relative_contrast(x, q, D)
    assert contrast == pytest.approx(exact.mean() / exact.min(axis=1).mean(), rel=1e-4)
    assert metrics.imbalance(invert(np.arange(40) % 8, 8)) == pytest.approx(1)
    assert metrics.imbalance(invert(np.zeros(40, dtype=np.int64), 8)) == pytest.approx(8)
    with pytest.raises(ValueError, match="vector of integers"):
        metrics.top1(np.zeros((3, 1), dtype=np.int64), np.zeros((4, 1), dtype=np.int64), np.zeros(3, dtype=np.int64))


# --- a user's faiss index ---------------------------------------------------------------------------------------------


def _ivf(x, n_list=16):
    faiss = pytest.importorskip("faiss")
    index = faiss.index_factory(D, f"IVF{n_list},Flat")
    index.train(x)
    index.add_with_ids(x, 10 * np.arange(len(x)) + 7)
    return index


@pytest.mark.parametrize("n_probe", [1, 4])
def test_full_prefixes_are_faisses_own_search(x, q, n_probe):
    index = _ivf(x)
    from tensorbench.quantization.adanns.faiss_tools import PrefixSearch, search_prefix

    got = search_prefix(index, q, 10, d_c=D, n_probe=n_probe)
    assert index.nprobe == 1  # the user's setting is left alone
    index.nprobe = n_probe
    for ours, theirs in zip(got, index.search(q, 10), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again = PrefixSearch(index, D).search(q, 10, n_probe)
    np.testing.assert_array_equal(again[1], got[1])


def test_cells_by_prefixes(x, q):
    index = _ivf(x)
    from tensorbench.quantization.adanns.faiss_tools import PrefixSearch, centroids_of, cut

    centroids = centroids_of(index)
    cells = np.argmin(((x[:, None] - centroids) ** 2).sum(axis=2), axis=1)
    probes = np.argsort(((prefix(q, 4)[:, None] - prefix(centroids, 4)) ** 2).sum(axis=2), axis=1)[:, :3]
    short = cut(index, 8)
    assert short.ntotal == index.ntotal and short.d == 8
    for searched, d_s in ((index, D), (short, 8)):
        _, ids = PrefixSearch(searched, 4, centroids=centroids).search(q, 5, 3)
        part, query = prefix(x, d_s), prefix(q, d_s)
        for row in range(len(q)):
            members = np.flatnonzero(np.isin(cells, probes[row]))
            order = np.argsort(((part[members] - query[row]) ** 2).sum(axis=1), kind="stable")[:5]
            np.testing.assert_array_equal(ids[row], 10 * members[order] + 7)


def test_a_flat_index_of_prefixes(x, q):
    faiss = pytest.importorskip("faiss")
    from tensorbench.quantization.adanns.faiss_tools import cut_flat

    index = faiss.IndexFlatL2(D)
    index.add(x)
    part, query = prefix(x, 8), prefix(q, 8)
    want = np.argsort(((query[:, None] - part[None]) ** 2).sum(axis=2), axis=1)[:, :5]
    np.testing.assert_array_equal(cut_flat(index, 8).search(query, 5)[1], want)


def test_what_faiss_index_is_needed(x, q):
    faiss = pytest.importorskip("faiss")
    from tensorbench.quantization.adanns.faiss_tools import PrefixSearch, cut

    flat = faiss.IndexFlatL2(D)
    with pytest.raises(TypeError, match="IndexFlatL2 has no cells"):
        PrefixSearch(flat, 4)
    with pytest.raises(ValueError, match="n_probe 99"):
        PrefixSearch(_ivf(x), 4).search(q, 5, 99)
    with pytest.raises(ValueError, match="3 centroids for an index of 16 lists"):
        PrefixSearch(_ivf(x), 4, centroids=x[:3])
    codes = faiss.index_factory(D, "IVF16,PQ4x4")
    codes.train(x)
    with pytest.raises(TypeError, match="plain vectors"):
        cut(codes, 8)
