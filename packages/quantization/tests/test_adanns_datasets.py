"""Embeddings that experiments search: shapes, parts, the same again, and real images where a mirror has them."""

import numpy as np
import pytest

from tensorbench.core import data
from tensorbench.quantization.adanns.index import ExactL2
from tensorbench.quantization.adanns.metrics import top1


def test_encoders_of_digits(monkeypatch, tmp_path):
    monkeypatch.setenv("TENSORBENCH_CACHE", str(tmp_path))
    options = {"most_dims": 8, "epochs": 8, "hidden": 32, "noise": 0.1}
    made = data.load("digit_embeddings", seed=1, **options)
    assert made.dims.tolist() == [2, 4, 8]
    assert made.nested("database").shape == (1197, 8) and made.nested("test").shape == (300, 8)
    assert made.rigid("valid", 4).shape == (300, 4)
    assert not np.array_equal(made.rigid("test", 8), made.nested("test"))
    with pytest.raises(ValueError, match="unknown size of a rigid encoder '5'"):
        made.rigid("test", 5)
    for vectors in (made.nested, lambda part: made.rigid(part, 8)):
        ids = ExactL2().add(vectors("database")).search(vectors("test"), 1).ids
        assert top1(ids, made.labels("database"), made.labels("test")) > 0.8
    monkeypatch.setenv("TENSORBENCH_CACHE", str(tmp_path / "other"))
    again = data.load("digit_embeddings", seed=1, **options)
    np.testing.assert_array_equal(again.nested("test"), made.nested("test"))
    assert not np.array_equal(data.load("digit_embeddings", seed=2, **options).nested("test"), made.nested("test"))


def test_omniglot_splits_every_character_alike():
    there, why = data.available("omniglot_small1")
    if not there:
        pytest.skip(why)
    images = data.load("omniglot_small1", seed=0)
    assert images.train_images.shape == (14 * 136, 28, 28) and images.classes == 136
    for labels, each in ((images.train_labels, 14), (images.valid_labels, 3), (images.test_labels, 3)):
        assert (np.bincount(labels, minlength=136) == each).all()
    assert images.train_images.min() >= 0 and images.train_images.max() <= 1 and images.train_images.mean() < 0.2  # ink


def test_clustered_vectors_are_of_length_one_and_clustered():
    made = data.load("clustered_vectors", seed=3, n=300, queries=20, dims=16, centres=5, spread=0.1)
    for x in made.values():
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    gaps = 2 - 2 * made["queries"] @ made["database"].T
    assert np.median(np.sort(gaps, axis=1)[:, 0]) < 0.1 * np.median(gaps)
    with pytest.raises(ValueError, match="at least 1"):
        data.load("clustered_vectors", seed=3, n=0)
