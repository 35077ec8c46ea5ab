"""The int8 network: trained well enough, quantised without loss, operands in range, the same for the same seed."""

from __future__ import annotations

import numpy as np

from tensorbench.quantization.datasets.int8_layers import int8_digits_cnn, normal_int8


def test_digits_network():
    work = int8_digits_cnn(seed=0, steps=150, images=2, rows=8)
    assert work.float_accuracy > 0.8
    assert abs(work.float_accuracy - work.int8_accuracy) < 0.03
    assert work.A.shape == (8, 144) and work.B.shape == (144, 64)
    assert work.A.min() == 0 and np.abs(work.B).max() == 127
    again = int8_digits_cnn(seed=0, steps=150, images=2, rows=8)
    np.testing.assert_array_equal(work.B, again.B)


def test_normal_integers():
    work = normal_int8(seed=1, m=200, k=300, n=2)
    assert abs(work.A.std() - 30) < 1 and work.A.min() >= -128 and work.A.max() <= 127
