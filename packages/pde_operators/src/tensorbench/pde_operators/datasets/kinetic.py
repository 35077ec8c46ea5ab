"""Solutions of the kinetic equation on an annulus: those published with the paper, and own ones by our solver.

Parameters are in the order (a2, ell, 1 - a1), as the published models take them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import File, dataset
from tensorbench.core.errors import unknown

if TYPE_CHECKING:
    from tensorbench.pde_operators.stnn import StackedTNN

_REPOSITORY: Any = {
    "repository": "caleb399/stacked_tensorial_nn",
    "commit": "81c177d2b24429c1d40b8e20a95d6bd4824cff51",
    "licence": "MIT",
}
_TRIALS = (1, 2, 5)
_FILES = [
    File(path="examples/test_dataset.h5", bytes=743424, **_REPOSITORY,
         sha256="4f234204a3eda8be615805d0cedb4a2938ed23e8d04e1fbec176808996dac036"),
    File(path="paper/models/trial_1/T1.h5", bytes=448736, **_REPOSITORY,
         sha256="6b1817216a75cdae7febcc728fe841485cbb5df1b6a549dbeb4398f6370c08e9"),
    File(path="paper/models/trial_1/T1_config.json", bytes=478, **_REPOSITORY,
         sha256="ee3179b5c86bf206dcc9fa288c92cb944753fb72ffa2a4b17ff44306f351ab06"),
    File(path="paper/models/trial_2/T2.h5", bytes=841856, **_REPOSITORY,
         sha256="26cfb937fe7ec2513a4ac10f091c3b274309ee1dced9b3520c4d36df698166e1"),
    File(path="paper/models/trial_2/T2_config.json", bytes=478, **_REPOSITORY,
         sha256="f31ce69fbb40216e1c69c54b9648397589bf8eadf9dad1ffa9f2c7f281e871f7"),
    File(path="paper/models/trial_5/T5.h5", bytes=957976, **_REPOSITORY,
         sha256="51b60beefbbd6e5c8ade77d6f4f64c54146f34dc79e2b91605e0864ecbfcbd07"),
    File(path="paper/models/trial_5/T5_config.json", bytes=479, **_REPOSITORY,
         sha256="157926b04178114ef627ae61d645f075eeb73a264cc7ddb9c9c15fe18c74961f"),
]  # fmt: skip
_DATA = (2312, 14979)  # seed of own data
_KEYS = ("ell", "a1", "a2", "ibf", "obf", "rho")


@dataclass(frozen=True)
class Solutions:
    """Samples of the equation: ``params`` (a2, ell, 1 - a1), inflow at the inner and outer wall, and rho."""

    params: Float[np.ndarray, "n 3"]
    inflow: Float[np.ndarray, "n 2 n_2 half"]
    rho: Float[np.ndarray, "n n_1 n_2"]

    def __len__(self) -> int:
        return len(self.params)


@dataclass(frozen=True)
class Published:
    """The ten published test solutions and where the published models' files are, by trial."""

    samples: Solutions
    weights: dict[int, Path]
    configs: dict[int, Path]

    def model(self, trial: int) -> StackedTNN:
        """A published model in our layers."""
        if trial not in self.weights:
            raise ValueError(unknown("trial", str(trial), map(str, self.weights)))
        return load_reference_model(self.weights[trial], self.configs[trial])


def read_solutions(path: Path) -> Solutions:
    """The published layout: ``ell``, ``a1``, ``a2`` (n), ``ibf`` and ``obf`` (n, n_2, n_w / 2), ``rho`` (n, n_1, n_2).

    Raises:
        ValueError: a dataset is missing, or holds NaN.
    """
    import h5py

    with h5py.File(path, "r") as file:
        missing = [key for key in _KEYS if key not in file]
        if missing:
            raise ValueError(
                f"{path.name} lacks {', '.join(missing)}; it has {', '.join(file)}; needed: {', '.join(_KEYS)}"
            )
        ell, a1, a2, inner, outer, rho = (np.asarray(file[key], dtype=np.float32) for key in _KEYS)
    solutions = Solutions(np.stack([a2, ell, 1 - a1], axis=1), np.stack([inner, outer], axis=1), rho)
    for name, values in (("parameters", solutions.params), ("inflow", solutions.inflow), ("rho", rho)):
        if not np.isfinite(values).all():
            raise ValueError(f"{path.name}: {name} hold NaN or infinity")
    return solutions


def scale_params(
    params: Float[np.ndarray, "n 3"], a2: tuple[float, float], ell: tuple[float, float], log_ell: bool = False
) -> Float[np.ndarray, "n 3"]:
    """What the networks see: a2 and ell (or its logarithm) mapped from their ranges to [0, 1], 1 - a1 as it is."""
    scaled = np.array(params, dtype=np.float32)
    scaled[:, 0] = (params[:, 0] - a2[0]) / (a2[1] - a2[0])
    if log_ell:
        scaled[:, 1] = np.log(params[:, 1] / ell[0]) / np.log(ell[1] / ell[0])
    else:
        scaled[:, 1] = (params[:, 1] - ell[0]) / (ell[1] - ell[0])
    return scaled


def load_reference_model(weights: Path, config: Path) -> StackedTNN:
    """A model from the published TensorFlow weights (HDF5) and their JSON config, in float32.

    The config gives K, W, the modes and the ranks; the file has a group per branch (``w1``, ``w2``, ..., TT cores) and
    the dense layers of the embedding.

    Raises:
        ValueError: a config without a needed key, or weights of other shapes.
    """
    import h5py
    import torch

    from tensorbench.pde_operators.stnn import StackedTNN

    settings = json.loads(Path(config).read_text())
    needed = ("K", "W", "d", "nx1", "nx2", "nx3", "shape1", "shape2", "ranks")
    if missing := [key for key in needed if key not in settings]:
        raise ValueError(f"{Path(config).name} lacks {', '.join(missing)}")
    K, W = settings["K"], settings["W"]
    model = StackedTNN(
        K, W, (settings["nx1"], settings["nx2"], settings["nx3"]), settings["shape1"], settings["shape2"],
        settings["ranks"], hidden=(30,) * settings["d"], ranges=((0, 1), (0, 1), (0, 1)),
    )  # fmt: skip
    with h5py.File(weights, "r") as file, torch.no_grad():
        groups = [name for name in file if any(key.startswith("matrix") for key in file[name])]
        branches = sorted(groups, key=lambda name: int(name.rpartition("_")[2]) if "_" in name else 0)
        if len(branches) != K:
            raise ValueError(f"{Path(weights).name} has {len(branches)} branches; its config says K = {K}")
        for k, name in enumerate(branches):
            for t, core in enumerate(model.trains.cores):
                core[k] = torch.from_numpy(np.asarray(file[name][f"matrix/core_{t}:0"]))
            for v in range(W):
                model.boundary.vectors[k, v] = torch.from_numpy(np.asarray(file[name][f"w{v + 1}:0"])).reshape(2, -1)
        outer = next(name for name in file if name.startswith("softmax"))
        dense = file[outer][outer]
        layers = [layer for layer in model.embedding if isinstance(layer, torch.nn.Linear)]
        for t, layer in enumerate(layers):
            group = dense[f"dense_{t}" if t else "dense"]
            layer.weight.copy_(torch.from_numpy(np.asarray(group["kernel:0"])).T)
            layer.bias.copy_(torch.from_numpy(np.asarray(group["bias:0"])))
    return model.eval()


@dataset(title="Published solutions of the kinetic equation and models of them", source="Wagner (2023)", licence="MIT",
         files=_FILES)  # fmt: skip
def kinetic_published(files: list[Path], *, seed: int) -> Published:
    """Ten solutions on 256 x 64 nodes with 32 directions, and the weights of the trials 1, 2 and 5 of the paper."""
    weights = {trial: files[1 + 2 * i] for i, trial in enumerate(_TRIALS)}
    return Published(read_solutions(files[0]), weights, {trial: files[2 + 2 * i] for i, trial in enumerate(_TRIALS)})


@dataclass(frozen=True)
class KineticSamples:
    """Own solutions, flat, so that they can be kept: training and test geometries, and shifted test sets.

    Sets: ``train``, ``valid``, ``test`` (of the same law, split by geometry), ``wide`` (a2 above the range), ``long``
    and ``short`` (ell above and below it), ``piecewise`` (geometries of its own, other inflows).
    """

    params: Float[np.ndarray, "n 3"]
    inflow: Float[np.ndarray, "n 2 n_2 half"]
    rho: Float[np.ndarray, "n n_1 n_2"]
    ends: Float[np.ndarray, " sets"]  # where each set ends
    names: str  # of the sets, separated by spaces

    def part(self, name: str) -> Solutions:
        """One of the sets."""
        names = self.names.split()
        if name not in names:
            raise ValueError(unknown("set", name, names))
        k = names.index(name)
        cut = slice(int(self.ends[k - 1]) if k else 0, int(self.ends[k]))
        return Solutions(self.params[cut], self.inflow[cut], self.rho[cut])


@dataset(title="Inflows of the kinetic equation, unsolved", source="drawn here", licence="Apache-2.0", generated=True)
def kinetic_inflows(*, seed: int, grid: Sequence[int] = (256, 64, 32), samples: int = 100) -> Solutions:
    """Random parameters and inflows of the published grid without their solutions (rho is 0), to time a model with."""
    from tensorbench.pde_operators.solvers.kinetic import Annulus, KineticSolver, random_inflow

    rng = np.random.default_rng([seed, *_DATA])
    solver = KineticSolver((grid[0], grid[1], grid[2]), 1.0, Annulus(0.5, 5.0))
    inflow = np.stack([random_inflow(solver, rng) for _ in range(samples)]).astype(np.float32)
    low, high = np.array([2.0, 0.01, 0.0]), np.array([20.0, 100.0, 0.8])
    params = (low + (high - low) * rng.random((samples, 3))).astype(np.float32)
    return Solutions(params, inflow, np.zeros((samples, grid[0], grid[1]), dtype=np.float32))


@dataset(title="Kinetic equation on elliptic annuli", source="solved here", licence="Apache-2.0", generated=True,
         cache=True)  # fmt: skip
def kinetic_annulus(
    *,
    seed: int,
    grid: Sequence[int] = (32, 16, 16),
    ell: Sequence[float] = (0.1, 10.0),
    a2: Sequence[float] = (2.0, 8.0),
    a1: Sequence[float] = (0.3, 0.95),
    geometries: Sequence[int] = (70, 10, 20),
    shifted: int = 8,
    inflows: int = 8,
    solver: str = "direct",
) -> KineticSamples:
    """Geometries and mean free paths at random (ell log-uniform), some inflows for each, solved by sparse LU
    (or ``solver: gmres``, for grids whose factors would not fit in memory).

    ``geometries`` are those of training, validation and test; ``shifted`` those of each set outside: a2 up to a quarter
    above its range, ell up to a factor of three outside. One draw for all seeds of an experiment.
    """
    from tensorbench.pde_operators.solvers.kinetic import Annulus, KineticSolver, random_inflow

    rng = np.random.default_rng(_DATA)  # not of the seed: what varies is training, the data are one set

    def uniform(span: Sequence[float]) -> float:
        return float(rng.uniform(span[0], span[1]))

    high = (a2[1], 1.25 * a2[1])
    plan = [
        ("train", geometries[0], a2, ell, "random"),
        ("valid", geometries[1], a2, ell, "random"),
        ("test", geometries[2], a2, ell, "random"),
        ("wide", shifted, high, ell, "random"),
        ("long", shifted, a2, (ell[1], 3 * ell[1]), "random"),
        ("short", shifted, a2, (ell[0] / 3, ell[0]), "random"),
        ("piecewise", shifted, a2, ell, "piecewise"),
    ]
    params, entering, rhos, ends = [], [], [], []
    for _, number, span, free_paths, family in plan:
        for _ in range(number):
            outer, inner = uniform(span), uniform(a1)
            path = float(np.exp(uniform(np.log(free_paths))))
            system = KineticSolver((grid[0], grid[1], grid[2]), path, Annulus(inner, outer))
            inflow = np.stack([random_inflow(system, rng, family=family) for _ in range(inflows)])
            rhos.append(system.density(system.solve(inflow, solver)))  # type: ignore[arg-type]
            entering.append(inflow)
            params.append(np.tile([outer, path, 1 - inner], (inflows, 1)))
        ends.append(len(params) * inflows)
    return KineticSamples(
        np.concatenate(params).astype(np.float32),
        np.concatenate(entering).astype(np.float32),
        np.concatenate(rhos).astype(np.float32),
        np.array(ends, dtype=np.float64),
        " ".join(name for name, *_ in plan),
    )
