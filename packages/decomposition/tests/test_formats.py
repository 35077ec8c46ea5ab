"""Properties of the containers CP, Tucker, TT and TR: values, round trips, and errors that teach."""

import subprocess
import sys

import numpy as np
import pytest
import tensorly as tl
import torch

from tensorbench.decomposition import formats
from tensorbench.decomposition.formats import CP, TR, TT, Tucker
from tensorbench.decomposition.functional.multiple import MultipleTensor


def _examples():
    g = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return {
        "cp": CP(rand(3), (rand(4, 3), rand(5, 3), rand(2, 3))),
        "cp_vector": CP(rand(3), (rand(4, 3),)),
        "tucker": Tucker(rand(2, 3, 2), (rand(4, 2), rand(5, 3), rand(3, 2))),
        "tt": TT((rand(1, 4, 2), rand(2, 5, 3), rand(3, 2, 1))),
        "tr": TR((rand(2, 4, 3), rand(3, 5, 2), rand(2, 3, 2))),
        "tr_one_core": TR((rand(3, 4, 3),)),
    }


EXAMPLES = _examples()


def _by_definition(x):
    """The defining sums of the module docstring, entry by entry."""
    out = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        if isinstance(x, CP):
            rows = np.prod([f.numpy()[i] for f, i in zip(x.factors, index, strict=True)], axis=0)
            out[index] = x.weights.numpy() @ rows
        elif isinstance(x, Tucker):
            value = x.core.numpy()
            for f, i in zip(x.factors, index, strict=True):
                value = np.tensordot(f.numpy()[i], value, axes=(0, 0))
            out[index] = value
        else:
            product = np.eye(x.cores[0].shape[0])
            for core, i in zip(x.cores, index, strict=True):
                product = product @ core.numpy()[:, i, :]
            out[index] = np.trace(product)
    return out


@pytest.mark.parametrize("name", EXAMPLES)
def test_full_is_the_definition(name):
    x = EXAMPLES[name]
    assert x.full().dtype == torch.float64
    np.testing.assert_allclose(x.full().numpy(), _by_definition(x), atol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
def test_save_and_load_without_pickle(name, tmp_path):
    x = EXAMPLES[name]
    x.save(tmp_path / "x.npz")
    for back in (formats.load(tmp_path / "x.npz"), type(x).load(tmp_path / "x.npz")):
        assert type(back) is type(x) and back.ranks == x.ranks and back.shape == x.shape
        assert all(torch.equal(a, b) for a, b in zip(back.arrays(), x.arrays(), strict=True))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert all(file[key].dtype != object for key in file)


@pytest.mark.parametrize("name", ["cp", "tucker", "tt", "tr"])
def test_tensorly_agrees_both_ways(name):
    x = EXAMPLES[name]
    theirs = x.to_tensorly()
    dense = {
        "cp": tl.cp_to_tensor,
        "tucker": tl.tucker_to_tensor,
        "tt": tl.tt_to_tensor,
        "tr": tl.tr_tensor.tr_to_tensor,
    }[name](theirs)
    np.testing.assert_allclose(dense, x.full().numpy(), atol=1e-12)
    np.testing.assert_allclose(type(x).from_tensorly(theirs).full().numpy(), x.full().numpy(), atol=1e-14)


def test_row_major_unfolding():
    """Rows of the reshape are numbered with the last of the row modes fastest: the Khatri-Rao product's order."""
    cp = EXAMPLES["cp"]
    a, b, c = cp.factors
    unfolded = cp.full().reshape(4 * 5, 2)
    torch.testing.assert_close(unfolded, (formats.khatri_rao([a, b]) * cp.weights) @ c.T, atol=1e-12, rtol=0)
    np.testing.assert_allclose(formats.khatri_rao([a, b])[:, 0].numpy(), np.kron(a[:, 0], b[:, 0]))


def test_counts_and_ranks():
    assert EXAMPLES["cp"].ranks == (3,) and EXAMPLES["cp"].num_params() == 3 + 3 * (4 + 5 + 2)
    assert EXAMPLES["tucker"].ranks == (2, 3, 2) and EXAMPLES["tucker"].num_params() == 12 + 8 + 15 + 6
    assert EXAMPLES["tt"].ranks == (1, 2, 3, 1) and EXAMPLES["tr"].ranks == (2, 3, 2, 2)


def test_normalized_keeps_the_tensor():
    cp = EXAMPLES["cp"]
    unit = cp.normalized()
    torch.testing.assert_close(unit.full(), cp.full(), atol=1e-13, rtol=0)
    for factor in unit.factors:
        torch.testing.assert_close(torch.linalg.vector_norm(factor, dim=0), torch.ones(3, dtype=torch.float64))


def test_numpy_lists_and_integers_become_float64():
    cp = CP(None, (np.eye(2, dtype=np.int64), [[1, 0], [0, 1]]))
    assert cp.full().dtype == torch.float64 and torch.equal(cp.full(), torch.eye(2, dtype=torch.float64))
    assert CP(None, (np.eye(2, dtype=np.float32),)).full().dtype == torch.float32


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CP(None, (np.ones((3, 2)), np.ones((4, 3)))), r"mode 1 has shape \(4, 3\); expected \(n, 2\)"),
        (lambda: CP(np.ones(3), (np.ones((3, 2)),)), r"expected \(2,\)"),
        (lambda: CP(None, ()), "at least one factor"),
        (lambda: CP(None, (1j * np.ones((3, 2)),)), "complex"),
        (lambda: Tucker(np.ones((2, 2)), (np.ones((3, 2)),)), "one per mode"),
        (lambda: Tucker(np.ones((2, 2)), (np.ones((3, 2)), np.ones((3, 3)))), r"mode 1 .*expected \(n, 2\)"),
        (lambda: TR((np.ones((2, 3, 2)), np.ones((3, 3, 2)))), "core 0 ends in rank 2 but core 1 begins with rank 3"),
        (lambda: TR(()), "at least one core"),
        (lambda: TT((np.ones((2, 3, 2)),)), "use TR for a ring"),
        (lambda: TT((np.ones((1, 3)),)), "left rank, mode size, right rank"),
    ],
)
def test_bad_shapes_teach(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_process_that_knows_the_classical_formats_only_loads_the_multiple_format(tmp_path):
    MultipleTensor.random((3, 4, 5), (2, 3, 2)).save(tmp_path / "t.npz")
    program = "import sys; from tensorbench.decomposition import formats; print(formats.load(sys.argv[1]).kind)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "t.npz")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "multiple"


def test_loading_another_format_is_refused(tmp_path):
    EXAMPLES["tt"].save(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"holds a tt tensor, not cp; use formats\.load"):
        CP.load(tmp_path / "x.npz")
