"""Properties of the containers CP, Tucker, TT and TR: values, round trips, and errors that teach."""

import subprocess
import sys

import numpy as np
import pytest
import tensorly as tl
import torch

from tensorbench.decomposition import formats
from tensorbench.decomposition.formats import CP, TR, TT, Tucker
from tensorbench.decomposition.functional.chebtuck import ChebTucker
from tensorbench.decomposition.functional.chebyshev import chebpts
from tensorbench.decomposition.functional.multiple import MultipleTensor
from tensorbench.decomposition.network import TensorNetwork, random_network, structure_matrix


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


def _others():
    rng = np.random.default_rng(0)
    core, coeffs = rng.normal(size=(2, 3, 1)), tuple(rng.normal(size=s) for s in ((4, 2), (5, 3), (1, 1)))
    return {
        "multiple": MultipleTensor.random((3, 4, 5), (2, 3, 2)),
        "chebtuck": ChebTucker(core, coeffs, [[-1, 2], [0, 1], [-3, -1]]),
        "network": random_network(structure_matrix((3, 4, 2, 5), 2), rng),
    }


OTHERS = _others()


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_formats_are_saved_and_loaded_alike(name, tmp_path):
    x = OTHERS[name]
    x.save(tmp_path / "x.npz")
    for back in (formats.load(tmp_path / "x.npz"), type(x).load(tmp_path / "x.npz")):
        assert type(back) is type(x) and back.shape == x.shape == tuple(x.full().shape)
        assert back.num_params() == x.num_params()
        np.testing.assert_array_equal(np.asarray(back.full()), np.asarray(x.full()))
    with pytest.raises(ValueError, match=f"holds a {x.kind} tensor, not cp"):
        CP.load(tmp_path / "x.npz")


def test_chebyshev_tucker_is_the_tucker_tensor_of_its_values_at_the_nodes():
    x = OTHERS["chebtuck"]
    nodes = [chebpts(m, *ends) if m > 1 else np.array([-2.0]) for m, ends in zip(x.shape, x.domain, strict=True)]
    theirs = x.to_tensorly()
    np.testing.assert_allclose(x.full(), x.grid(*nodes), atol=1e-12)
    np.testing.assert_allclose(tl.tucker_to_tensor(theirs), x.full(), atol=1e-12)
    back = ChebTucker.from_tensorly(theirs, x.domain)
    points = x.domain[:, 0] + np.ptp(x.domain, axis=1) * np.random.default_rng(1).random((20, 3))
    np.testing.assert_allclose(back(points), x(points), atol=1e-12)
    assert x.num_params() == x.storage == 6 + 8 + 15 + 1
    with pytest.raises(ValueError, match="rank 3 of variable 0 exceeds its 2"):
        ChebTucker.from_tensorly((np.ones((3, 2)), [np.ones((2, 3)), np.ones((4, 2))]))


def test_multiple_is_a_ring_for_tensorly_at_order_3():
    x = OTHERS["multiple"]
    np.testing.assert_allclose(tl.tr_tensor.tr_to_tensor(x.to_tensorly()), x.full(), atol=1e-12)
    for name in ("cp", "tucker", "tt", "tr"):
        back = MultipleTensor.from_tensorly(EXAMPLES[name].to_tensorly())
        np.testing.assert_allclose(back.full(), EXAMPLES[name].full(), atol=1e-12)
    four = MultipleTensor.random((2, 3, 2, 3), (2, 1, 2, 1))
    with pytest.raises(ValueError, match=r"only at order 3 .* order 4: to_tucker"):
        four.to_tensorly()
    np.testing.assert_allclose(tl.tucker_to_tensor(four.to_tucker().to_tensorly()), four.full(), atol=1e-12)


@pytest.mark.parametrize(("name", "dense"), (("cp", tl.tucker_to_tensor), ("tucker", tl.tucker_to_tensor),
                                             ("tt", tl.tt_to_tensor), ("tr", tl.tr_tensor.tr_to_tensor)))  # fmt: skip
def test_networks_that_tensorly_has_a_format_for(name, dense):
    network = TensorNetwork.from_tensorly(EXAMPLES[name].to_tensorly())
    theirs = network.to_tensorly()
    expected = EXAMPLES[name].full().numpy()
    np.testing.assert_allclose(np.reshape(network.full(), expected.shape), expected, atol=1e-12)
    np.testing.assert_allclose(dense(theirs), expected, atol=1e-12)


def test_networks_that_tensorly_has_no_format_for():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no format for other graphs"):
        OTHERS["network"].to_tensorly()
    train = TensorNetwork.from_tensorly(TT(tuple(rng.normal(size=s) for s in ((1, 3, 2), (2, 4, 3), (3, 2, 2),
                                                                             (2, 5, 1)))).to_tensorly())  # fmt: skip
    shuffled = train.permute([2, 0, 3, 1])
    with pytest.raises(ValueError, match=r"train through the modes .* permute\(\[1, 3, 0, 2\]\) first"):
        shuffled.to_tensorly()
    ordered = shuffled.permute([1, 3, 0, 2])
    np.testing.assert_allclose(tl.tt_to_tensor(ordered.to_tensorly()), train.full(), atol=1e-12)
    with pytest.raises(ValueError, match="ndarray is no tensorly"):
        TensorNetwork.from_tensorly(np.ones(3))


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="does not say which format"):
        formats.load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", kind="tukcer")
    with pytest.raises(ValueError, match="tucker"):
        formats.load(tmp_path / "y.npz")


@pytest.mark.parametrize("name", OTHERS)
def test_a_process_that_knows_the_classical_formats_only_loads_the_others(name, tmp_path):
    OTHERS[name].save(tmp_path / "t.npz")
    program = "import sys; from tensorbench.decomposition import formats; print(formats.load(sys.argv[1]).kind)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "t.npz")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == name


def test_loading_another_format_is_refused(tmp_path):
    EXAMPLES["tt"].save(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"holds a tt tensor, not cp; use formats\.load"):
        CP.load(tmp_path / "x.npz")
