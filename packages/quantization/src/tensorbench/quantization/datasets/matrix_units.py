"""Work for matrix units: outputs measured on GPUs, random operands, and operands captured from a small network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import File, dataset

_COMMIT = "b12b5a700957655375a1b0c1d0c26e76065da015"
_MEASURED = (
    ("V100/fp16/a_V100_fp16", "53d8534fd1106f7e9a23e902b918e59108f9e1b05843d20a36b3049a61bf8204", 185000),
    ("V100/fp16/b_V100_fp16", "1a019e8dcec2a44a741e691268e4c4a9eb9eb9ebc128be097f9921b813d4c6f9", 185000),
    ("V100/fp16/c_V100_fp32", "d38097e1e4d5547234e7be1c6daabeb4ba8fe24e99367391a3f7b5c600001848", 165000),
    ("V100/fp16/d_V100_fp32", "1cfbb62768f303c90aff43458afe386e297b99df7a4e69ab4b0cde26dbcbac83", 165000),
    ("V100/fp16/d_V100_fp16", "7322aff1d735e6dd6a225754bd981e6520f3a6078c14ebf1614ce42b115c029a", 165000),
    ("A100/fp16/a_A100_fp16", "69e9abd30801c1cb569e766af9a00a47c970761c52304ce5c58d052521d9f264", 365000),
    ("A100/fp16/b_A100_fp16", "5e9dfabb73ee4188bb30ad67e1e02ab20586a929db066350f899b5586d6182fe", 365000),
    ("A100/fp16/c_A100_fp32", "41d30aa86e0cf0977a7a75f8ead6af8f60c4bad2fca3e66312f54b1baf2a9c0f", 165000),
    ("A100/fp16/d_A100_fp32", "b89cc3c2ab581799fb9e9d3af072c4059c8cecc4d1b707706da9728f5506edfb", 165000),
    ("A100/fp16/d_A100_fp16", "382b420782160fe31e4b95b9b2ea80cfea9fd93e74b28b857cd96e5d78e1bda7", 165000),
    ("A100/bf16/a_A100_bf16", "451badf33ce4cdcb9953db64ede3c561827ba79068a222723f1dc033bbe7122e", 365000),
    ("A100/bf16/b_A100_bf16", "64dd5b9fe0a210a7b660aca0d35e5ab3ce9a9ed69137eaea02099b1e62d3a895", 365000),
    ("A100/bf16/c_A100_fp32", "23f934d9a61e266bec5ba50159caee9be855a4c79156fd84715dc6d374e1e93c", 165000),
    ("A100/bf16/d_A100_fp32", "e411491e371ae14522f0196b659169ffe910bbeb4d26f00535e5ac357b58e295", 165000),
    ("A100/tf32/a_A100_tf32", "53d8534fd1106f7e9a23e902b918e59108f9e1b05843d20a36b3049a61bf8204", 185000),
    ("A100/tf32/b_A100_tf32", "1a019e8dcec2a44a741e691268e4c4a9eb9eb9ebc128be097f9921b813d4c6f9", 185000),
    ("A100/tf32/c_A100_fp32", "03353ec360c1b95e24ded892e590797a85d1fd8f060f483f77b4c68c56e7ca32", 165000),
    ("A100/tf32/d_A100_fp32", "08fdb267afb519168e8b82aabef40542d1dd18474a5f3b2c679f0304ba5f429a", 165000),
    ("H100/fp16/a_H100_fp16", "0672b27f1fe4e99d6f781600650f908e69f00ac0ac0f7c87fe27eea6c35cd7e9", 725000),
    ("H100/fp16/b_H100_fp16", "f29a269fc3e534cdde204ac72f28cb0335117a477e901d5740c077cb0599e93e", 725000),
    ("H100/fp16/c_H100_fp32", "91798c84f0b2bd0d817eb1ed2b5f0a305247f0ce0227ccc2a808053f08b3aa2c", 165000),
    ("H100/fp16/d_H100_fp32", "49fc4f860424411556be17ffb1f6c9041d1dbb93251a48c256eb456c264bd7cd", 165000),
    ("H100/fp16/d_H100_fp16", "68b5bccd7afb9c8d28fa16841dea18a49888501004ea3f8988126339ab681d6f", 165000),
    ("H100/bf16/a_H100_bf16", "0b2302c35bbd13072c4a3ac4103a3bf631f928e02b7878bb90893756d862aa18", 725000),
    ("H100/bf16/b_H100_bf16", "d1ab103643c56f021cd3a41fcef824072d94bfe8994eccdf6fb91fbec9ff53a5", 725000),
    ("H100/bf16/c_H100_fp32", "eb0874a6969cb35eddbb60fcedc90422b24036dcba47c6c57d5b59ccb7ef1bc6", 165000),
    ("H100/bf16/d_H100_fp32", "243fe26cf259ed549f5ea306ff1b56f35a3ba148944bba8f91ffbf53c0e6ae37", 165000),
    ("H100/tf32/a_H100_tf32", "53d8534fd1106f7e9a23e902b918e59108f9e1b05843d20a36b3049a61bf8204", 185000),
    ("H100/tf32/b_H100_tf32", "1a019e8dcec2a44a741e691268e4c4a9eb9eb9ebc128be097f9921b813d4c6f9", 185000),
    ("H100/tf32/c_H100_fp32", "0e13e585a11bd64b0fc40bafc9fd0b8037176e4f98097c76869505fefbcba23c", 165000),
    ("H100/tf32/d_H100_fp32", "c879699e2cbac246e311ebdfb1ed4528b2463bf9d588faa3ca3651a4af7222ab", 165000),
    ("H100/E4M3/a_H100_E4M3", "76a6115878a4662fb486d90a6765e24564ed436a173ed1260d5d53112e8a976c", 1445000),
    ("H100/E4M3/b_H100_E4M3", "f35d75720651ab777b10399abea59f060cde011a898065b5c3045ea171cc669d", 1445000),
    ("H100/E4M3/c_H100_fp32", "0753ad13785f186e3980c29c97ade105814f7f016234f743523efbcefbcecee5", 165000),
    ("H100/E4M3/d_H100_fp32", "7c6c32232e823f7b196cf8f86b70ad6009ae89962d2ae8297f0089fe6d7fceca", 165000),
    ("H100/E5M2/a_H100_E5M2", "229abb5f9e0f1dfdae18ab467bccc38547749b3286128f99ba134573b443ee1f", 1445000),
    ("H100/E5M2/b_H100_E5M2", "dc105fe914100f96ba77b18ec88014bde43b4f5be0bc105e337d2e6bd51eeb35", 1445000),
    ("H100/E5M2/c_H100_fp32", "42fc38b55f4cfaf72b967d42de729b493b64163551c3eaa329a59d29ea5d31bb", 165000),
    ("H100/E5M2/d_H100_fp32", "cfd7f2b4be78f0891ec00ad2e93cfd885887da25f5253f9f03ed63fcf8501d93", 165000),
)
_FILES = [
    File(
        "north-numerical-computing/MATLAB-tensor-core",
        _COMMIT,
        f"model_validation/{name}.txt",
        sha256,
        size,
        "BSD-2-Clause",
    )
    for name, sha256, size in _MEASURED
]
_UNITS = {
    "volta": {"volta_fp16": ("V100", "fp16", "fp32"), "volta_fp16_fp16": ("V100", "fp16", "fp16")},
    "ampere": {
        "ampere_fp16": ("A100", "fp16", "fp32"),
        "ampere_fp16_fp16": ("A100", "fp16", "fp16"),
        "ampere_bf16": ("A100", "bf16", "fp32"),
        "ampere_tf32": ("A100", "tf32", "fp32"),
    },
    "hopper": {
        "hopper_fp16": ("H100", "fp16", "fp32"),
        "hopper_fp16_fp16": ("H100", "fp16", "fp16"),
        "hopper_bf16": ("H100", "bf16", "fp32"),
        "hopper_tf32": ("H100", "tf32", "fp32"),
        "hopper_e4m3": ("H100", "E4M3", "fp32"),
        "hopper_e5m2": ("H100", "E5M2", "fp32"),
    },
}


@dataclass(frozen=True)
class Measured:
    """One fused block per row as a GPU computed it: ``d = a · b + c``."""

    a: Float[np.ndarray, "vectors k"]
    b: Float[np.ndarray, "vectors k"]
    c: Float[np.ndarray, " vectors"]
    d: Float[np.ndarray, " vectors"]


@dataset(
    title="Dot products of tensor cores, measured on V100, A100 and H100",
    source="Khattak and Mikaitis, github.com/north-numerical-computing/MATLAB-tensor-core (arXiv 2512.07004)",
    licence="BSD-2-Clause",
    files=_FILES,
)
def tensor_core_outputs(files: Sequence[Path], *, seed: int, generation: str = "") -> dict[str, Measured]:
    """5000 dot products per unit, by the preset's name; ``generation`` volta, ampere, hopper, or all.

    H100's fp8 outputs were measured with C = 0 (wgmma), fp16 outputs with C rounded to fp16. The seed changes nothing.
    """
    where = {path.stem: path for path in files}
    found = {}
    for name, units in _UNITS.items():
        for unit, (gpu, form, out) in units.items() if generation in ("", name) else ():
            a, b = (_hex(where[f"{side}_{gpu}_{form}"]) for side in "ab")
            c, d = _binary(_same_folder(files, gpu, form, f"c_{gpu}_fp32")), None
            d = _binary(_same_folder(files, gpu, form, f"d_{gpu}_{out}"))
            if form in ("E4M3", "E5M2"):
                c = np.zeros_like(c)
            if out == "fp16":
                c = c.astype(np.float16).astype(np.float32)
            found[unit] = Measured(a.reshape(len(d), -1), b.reshape(len(d), -1), c, d)
    return found


def _same_folder(paths: Sequence[Path], gpu: str, form: str, stem: str) -> Path:
    return next(p for p in paths if p.stem == stem and p.parent.name == form and p.parent.parent.name == gpu)


def _hex(path: Path) -> np.ndarray:
    """Float32 numbers as words of eight hexadecimal digits."""
    return np.frombuffer(bytes.fromhex(path.read_text()), dtype=">u4").astype(np.uint32).view(np.float32)


def _binary(path: Path) -> np.ndarray:
    """Float32 numbers as lines of 32 binary digits."""
    digits = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    bits = digits[(digits == ord("0")) | (digits == ord("1"))] - ord("0")
    return np.packbits(bits).view(">u4").astype(np.uint32).view(np.float32)


@dataset(
    title="The small inputs of the published probes of tensor cores",
    source="Fasi, Higham, Mikaitis, Pranesh (PeerJ CS 7:e330, 2021), written anew",
    licence="Apache-2.0",
    generated=True,
)
def unit_probes(*, seed: int, length: int = 16, rows: int = 2000) -> dict[str, int]:
    """The probes are in ``tensorcore.probes``; this names the length of revealed sums and how many random rows are
    permuted. The seed is that of the rows."""
    return {"length": length, "rows": rows, "seed": seed}


@dataset(
    title="Normal random operands of matrix units, for errors of single operations and chains of products",
    source="generated here, as in Sun et al. (arXiv 2206.02874)",
    licence="Apache-2.0",
    generated=True,
)
def normal_operands(*, seed: int, draws: int = 1024, chains: int = 200, longest: int = 14) -> dict[str, int]:
    """What ``tensorcore.profile`` draws: so many numbers per operation, so many chains up to so many products."""
    return {"seed": seed, "draws": draws, "chains": chains, "longest": longest}


@dataset(
    title="Products of random matrices with longer and longer sums",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
)
def growing_sums(*, seed: int, rows: int = 16, powers: Sequence[int] = (4, 14)) -> dict[str, object]:
    """Sums of 2^powers[0] to 2^powers[1] terms, rows × rows of them."""
    return {"seed": seed, "rows": rows, "lengths": [2**p for p in range(powers[0], powers[1] + 1)]}


@dataclass(frozen=True)
class Layer:
    """A linear layer's product ``x w``, and what the rest of the network needs."""

    x: Float[np.ndarray, "rows inputs"]
    w: Float[np.ndarray, "inputs outputs"]


@dataset(
    title="Products captured from a small network on scikit-learn's digits",
    source="scikit-learn's bundled digits; weights fitted here",
    licence="BSD-3-Clause",
    library="scikit-learn",
)
def captured_products(*, seed: int, hidden: int = 64, rows: int = 512) -> dict[str, object]:
    """A perceptron with two hidden layers, trained for 40 epochs from ``seed``; activations of held-out digits.

    Returns the layers in order (``x`` are the float32 activations that enter), their biases, and the labels.
    """
    import warnings

    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[rows:], order[:rows]
    model = MLPClassifier((hidden, hidden), max_iter=40, random_state=seed, early_stopping=False, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 40 epochs are not convergence
        model.fit(images[train] / 16.0, labels[train])
    x = (images[test] / 16.0).astype(np.float32)
    layers, biases = [], []
    for weight, bias in zip(model.coefs_, model.intercepts_, strict=True):
        w, b = weight.astype(np.float32), bias.astype(np.float32)
        layers.append(Layer(x, w))
        biases.append(b)
        x = np.maximum(x @ w + b, 0.0)
    return {"layers": layers, "biases": biases, "labels": labels[test]}


@dataset(
    title="Issue and latency of matrix instructions",
    source="built in, or a measured JSON file",
    licence="Apache-2.0",
    generated=True,
)
def instruction_table(*, seed: int, architecture: str = "a100", path: str = "") -> dict[str, str]:
    """Which table of ``tensorcore.perf`` to use: an architecture's, or the measured file at ``path``."""
    return {"architecture": architecture, "path": path}


@dataset(
    title="Blocks of the size of one matrix instruction, to measure time with",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
)
def mma_blocks(*, seed: int, blocks: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Normal operands (blocks, 16, 16) and (blocks, 16, 8)."""
    rng = np.random.default_rng(seed)
    left, right = (rng.standard_normal((blocks, 16, n)).astype(np.float32) for n in (16, 8))
    return left, right
