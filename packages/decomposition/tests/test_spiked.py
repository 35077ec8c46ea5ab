"""The nested matrix-tensor model and its estimators."""

from __future__ import annotations

import numpy as np
import pytest

from tensorbench.core.timing import measure
from tensorbench.decomposition.baselines.clustering import kmeans_views, spectral_views
from tensorbench.decomposition.baselines.cp import tensorly_als
from tensorbench.decomposition.datasets.spiked import multiview_problems, nested_family
from tensorbench.decomposition.linalg import gram, streaming_gram
from tensorbench.decomposition.spiked import spectra
from tensorbench.decomposition.spiked import unfolding_theory as theory
from tensorbench.decomposition.spiked.estimators import (
    clustering_accuracy,
    rank_one_tensor,
    sign_labels,
    two_step,
    unfolding_estimator,
    weighted_mean,
)
from tensorbench.decomposition.spiked.nested import NestedModel, SecondGrams, multiview

DIMS = (60, 40, 20)


def rank_one(dims, seed=0):
    rng = np.random.default_rng(seed)
    x, y, z = (v / np.linalg.norm(v) for v in (rng.standard_normal(n) for n in dims))
    return np.einsum("i,j,k->ijk", x, y, z), x, y, z


def overlap(a, b):
    return abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)


def test_sample_is_the_model():
    sample = NestedModel(DIMS, 2.0, beta_T=3.0, generator=1).sample()
    assert sample.T.shape == DIMS and sample.M.shape == DIMS[:2]
    for vector, size in zip((sample.x, sample.y, sample.z), DIMS, strict=True):
        assert vector.shape == (size,) and np.linalg.norm(vector) == pytest.approx(1)
    W = (sample.T - 3.0 * np.einsum("ij,k->ijk", sample.M, sample.z)) * np.sqrt(120)
    Z = (sample.M - 2.0 * np.outer(sample.x, sample.y)) * np.sqrt(100)
    for noise in (W, Z):  # standard Gaussian: five standard errors
        assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
        assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)


def test_rho_and_beta_T_are_the_same_strength():
    model = NestedModel(DIMS, 1.0, rho_T=2.0)
    assert model.beta_T**2 * 120 / np.sqrt(60 * 40 * 20) == pytest.approx(2.0)
    assert NestedModel(DIMS, 1.0, beta_T=model.beta_T).rho_T == pytest.approx(2.0)
    assert theory.rho_from_beta(DIMS, model.beta_T) == pytest.approx(2.0)


def test_seeds_repeat_and_streams_go_on():
    a, b = (NestedModel(DIMS, 1.0, beta_T=1.0, generator=3) for _ in range(2))
    first = a.sample().T
    assert (first == b.sample().T).all()
    assert not np.allclose(first, a.sample().T)


@pytest.mark.parametrize("rows", [1, 7, 60, 100])
def test_slabs_are_the_tensor(rows):
    draw = NestedModel(DIMS, 1.5, rho_T=2.0, generator=0).draw()
    assert (np.concatenate(list(draw.slabs(rows))) == draw.tensor()).all()
    assert (draw.tensor(next(draw.noise(60))[1]) == draw.tensor()).all()
    for mode in (1, 2):
        np.testing.assert_allclose(streaming_gram(draw.slabs(rows), mode), gram(draw.tensor(), mode), atol=1e-11)


def test_a_tensor_passes_through_little_memory():
    draw = NestedModel((200, 150, 100), 1.5, rho_T=2.0, generator=0).draw()  # 24 MB whole
    with measure() as cost:
        streaming_gram(draw.slabs(rows=5), 1)
    assert cost.peak_mib < 12


@pytest.mark.parametrize(("beta_M", "beta_T"), [(0.0, 0.0), (1.2, 0.7), (3.0, 2.5)])
def test_grams_for_any_strength_are_those_of_the_tensor(beta_M, beta_T):
    draw = NestedModel(DIMS, 1.5, rho_T=2.0, generator=4).draw()
    T = draw.with_strengths(beta_M, beta_T).tensor()
    np.testing.assert_allclose(SecondGrams(draw)(beta_M, beta_T), gram(T, 1), atol=1e-11)


def test_multiview_is_two_clusters_in_every_view():
    labels = np.where(np.arange(30) < 12, 1, -1)
    draw = multiview(20, 30, 5, 4.0, 2.0, labels, generator=0).draw()
    np.testing.assert_allclose(draw.y * np.sqrt(30), labels)
    gains = 2.0 * draw.z
    assert np.linalg.norm(gains) == pytest.approx(2.0)
    without = draw.with_strengths(beta_M=0.0).tensor()
    for k, gain in enumerate(gains):  # the views differ from those without classes by gain * mu labels^T / sqrt(n)
        np.testing.assert_allclose(
            draw.tensor()[:, :, k] - without[:, :, k], gain * np.outer(4.0 * draw.x, labels) / np.sqrt(30), atol=1e-12
        )


def test_every_estimator_is_exact_without_noise_and_keeps_the_modes_apart():
    T, x, y, z = rank_one((7, 11, 5))
    assert overlap(unfolding_estimator(T, 0), x) == pytest.approx(1)
    assert overlap(unfolding_estimator(T, 1), y) == pytest.approx(1)
    assert overlap(unfolding_estimator(T, 2), z) == pytest.approx(1)
    assert overlap(weighted_mean(T, z), y) == pytest.approx(1)
    for result in (two_step(3 * T), rank_one_tensor(3 * T), rank_one_tensor(3 * T, "random", generator=2)):
        np.testing.assert_allclose(result.full(), 3 * T, atol=1e-12)
        assert result.lam == pytest.approx(3)


@pytest.mark.parametrize("init", ["unfolding", "two_step", "random"])
@pytest.mark.parametrize("inner", [1, 4])
def test_power_iteration_rises_and_ends_in_a_critical_point(init, inner):
    T = np.random.default_rng(0).standard_normal((9, 8, 7))
    result = rank_one_tensor(T, init, inner=inner, maxiter=5000, tol=1e-10, generator=1)
    assert np.diff(result.history).min() > -1e-12
    assert result.converged
    assert np.einsum("ijk,i,j,k", T, result.x, result.y, result.z) == pytest.approx(result.lam)
    np.testing.assert_allclose(np.einsum("ijk,j,k->i", T, result.y, result.z), result.lam * result.x, atol=1e-8)
    np.testing.assert_allclose(np.einsum("ijk,i,k->j", T, result.x, result.z), result.lam * result.y, atol=1e-8)
    np.testing.assert_allclose(np.einsum("ijk,i,j->k", T, result.x, result.y), result.lam * result.z, atol=1e-8)


def test_rank_one_agrees_with_tensorly():
    T = NestedModel((30, 20, 10), 2.0, beta_T=2.0, generator=0).sample().T
    ours = rank_one_tensor(T, tol=1e-9)
    peer = tensorly_als(T, 1, init="svd", iterations=500, tol=1e-12)
    np.testing.assert_allclose(ours.full(), peer.full().numpy(), atol=1e-5)


def test_rotations_of_the_tensor_rotate_the_estimates():
    sample = NestedModel((12, 10, 8), 3.0, beta_T=3.0, generator=0).sample()
    rng = np.random.default_rng(1)
    P, Q, R = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in sample.T.shape)
    rotated = np.einsum("ijk,ai,bj,ck->abc", sample.T, P, Q, R, optimize=True)
    assert overlap(unfolding_estimator(rotated, 1), Q @ unfolding_estimator(sample.T, 1)) == pytest.approx(1)
    assert overlap(two_step(rotated).y, Q @ two_step(sample.T).y) == pytest.approx(1)
    assert overlap(rank_one_tensor(rotated, tol=1e-9).y, Q @ rank_one_tensor(sample.T, tol=1e-9).y) == pytest.approx(1)


def test_spectra_of_whole_and_sliced_tensors_agree_and_are_centred():
    draw = NestedModel((60, 50, 40), 0.0, beta_T=0.0, generator=0).draw()  # noise alone: a semicircle
    values = spectra.esd(draw.tensor(), 1)
    np.testing.assert_allclose(spectra.esd(draw.slabs(7), 1), values, atol=1e-10)
    rescaled = spectra.rescale(values, draw.dims, 1)
    assert abs(rescaled.mean()) < 0.1 and abs(rescaled.var() - 1) < 0.2
    law = theory.ThirdUnfolding(0.0)
    assert spectra.kolmogorov_distance(rescaled, law.distribution) < 0.08
    shown = spectra.histogram(rescaled, law, bins=5)
    assert (shown.expected * np.diff(shown.edges)).sum() == pytest.approx(1)
    assert (shown.heights * np.diff(shown.edges)).sum() == pytest.approx(np.mean(np.abs(rescaled) < 2))


def test_simulation_follows_the_limit():
    """One tensor of moderate size well above the threshold; five standard errors as measured over many draws (0.03)."""
    draw = NestedModel((200, 140, 70), 2.0, rho_T=2.0, generator=0).draw()
    law = theory.SecondUnfolding(draw.dims, 2.0, 2.0)
    assert (unfolding_estimator(draw.tensor(), 1) @ draw.y) ** 2 == pytest.approx(law.alignment, abs=0.12)


def test_accuracy_ignores_the_names_of_the_classes():
    truth = np.array([1, 1, -1, -1, 1])
    assert clustering_accuracy(truth, truth) == clustering_accuracy(-truth, truth) == 1
    assert clustering_accuracy(np.array([1, 1, 1, -1, 1]), truth) == pytest.approx(0.8)
    assert sign_labels(np.array([-0.1, 0.0, 2.0])).tolist() == [-1, 1, 1]


def test_baselines_find_well_separated_clusters():
    draw = multiview(10, 40, 3, 40.0, 3.0, generator=0).draw()
    truth = sign_labels(draw.y)
    for labels in (kmeans_views(draw.tensor()), spectral_views(draw.tensor())):
        assert clustering_accuracy(labels, truth) == 1


def test_datasets_have_the_strength_that_was_asked_for():
    (second,), (third,) = (
        nested_family(seed=0, sizes=[list(DIMS)], beta_M=1.5, rho=2.0)[0],
        nested_family(seed=0, sizes=[list(DIMS)], beta_M=3.0, varrho=4.0)[0],
    )
    assert theory.rho_from_beta(DIMS, second.beta_T) == pytest.approx(2.0)
    assert theory.third_unfolding(DIMS, 3.0, third.beta_T).varrho == pytest.approx(4.0)


def test_digits_keep_their_noise_when_the_strength_changes():
    views = multiview_problems(seed=0, p=5, n=8, m=3).digits
    assert views.images.shape == (64, 360) and np.bincount((views.labels > 0).astype(int)).tolist() == [182, 178]
    np.testing.assert_allclose(views.images.mean(axis=1), 0, atol=1e-12)
    step = views.tensor(3.0) - views.tensor(2.0)
    np.testing.assert_allclose(step, views.images[:, :, None] * views.gains, atol=1e-12)
    found = sign_labels(weighted_mean(views.tensor(100.0), views.gains))
    assert clustering_accuracy(found, views.labels) > 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NestedModel((3, 0, 2), 1.0, beta_T=1.0), "three positive whole numbers"),
        (lambda: NestedModel((3, 2), 1.0, beta_T=1.0), "three positive whole numbers"),
        (lambda: NestedModel(DIMS, -1.0, beta_T=1.0), "beta_M = -1.0 must be"),
        (lambda: NestedModel(DIMS, 1.0, beta_T=-1.0), "beta_T = -1.0 must be"),
        (lambda: NestedModel(DIMS, 1.0, beta_T=1.0, rho_T=1.0), "both are given"),
        (lambda: NestedModel(DIMS, 1.0), "neither is given"),
        (lambda: multiview(5, 3, 2, 1.0, 1.0, np.array([0, 1, 1])), r"\+1 or -1.*2 \* labels - 1"),
        (lambda: multiview(5, 3, 2, 1.0, 1.0, np.ones(4)), "3 values"),
        (lambda: list(NestedModel(DIMS, 1.0, beta_T=1.0).draw().slabs(0)), "rows = 0"),
        (lambda: unfolding_estimator(np.ones((3, 3)), 1), "order 3"),
        (lambda: unfolding_estimator(np.ones((3, 3, 3)), 3), "mode = 3"),
        (lambda: rank_one_tensor(np.ones((3, 3, 3, 3))), "order 3"),
        (lambda: rank_one_tensor(np.full((3, 3, 3), np.nan)), "not finite"),
        (lambda: rank_one_tensor(np.ones((3, 3, 3)), "unfoldings"), "unfolding"),
        (lambda: rank_one_tensor(np.ones((3, 3, 3)), (np.ones(3), np.ones(2), np.ones(3))), "three vectors"),
        (lambda: rank_one_tensor(np.ones((3, 3, 3)), (np.ones(3), np.zeros(3), np.ones(3))), "is zero"),
        (lambda: rank_one_tensor(np.ones((3, 3, 3)), maxiter=0), "maxiter"),
        (lambda: weighted_mean(np.ones((3, 3, 3)), np.ones(2)), "3 gains"),
        (lambda: clustering_accuracy(np.array([0, 1]), np.array([1, 1])), "vector of"),
        (lambda: clustering_accuracy(np.array([1, 1, 1]), np.array([1, 1])), "cannot be compared"),
        (lambda: nested_family(seed=0, sizes=[[3, 3, 3]], beta_M=1.0), "one of rho"),
        (lambda: multiview_problems(seed=0, digits=[1, 1]), "two different ones"),
        (lambda: multiview_problems(seed=0, gains=[0.0]), "not all zero"),
    ],
)
def test_bad_input_teaches(call, message):
    with pytest.raises(ValueError, match=message):
        call()
