"""Seconds per epoch of FunBaT-CP here and in the authors' code, on the same data, in one process, one thread.

    python funbat_epoch.py PATH_TO_THE_REFERENCE [--epochs 10]

The reference is https://github.com/xuangu-fang/Functional-Bayesian-Tucker-Decomposition, checked out by the reader;
only its classes are imported. Both sides run the paper's configuration of each dataset, with the same damping; medians
over epochs, interleaved. Ours also computes the training error, which the reference does not.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import types
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tensorbench.core import data
from tensorbench.decomposition.functional.funbat_cp import FunBaTCP

SETTINGS = {
    "simulation_r1": {"rank": 1, "kernel": "matern32", "lengthscale": 0.1, "variance": 0.5, "schedule": "outer"},
    "us_temperature": {"rank": 1, "kernel": "matern32", "lengthscale": 0.1, "variance": 5.0, "schedule": "inner"},
    "beijing_pm25": {"rank": 3, "kernel": "matern12", "lengthscale": 0.1, "variance": 5.0, "schedule": "inner"},
}
DAMPING = (0.3, 0.5)


def reference(folder: Path, name: str):
    """The reference's model on a dataset, and a function that does one of its epochs."""
    import torch

    torch.set_num_threads(1)
    np.product = np.prod  # removed in NumPy 2
    sys.modules.setdefault("numpy.lib.utils", types.ModuleType("numpy.lib.utils"))
    np.lib.utils = sys.modules["numpy.lib.utils"]
    sys.path.insert(0, str(folder))
    from model_continues_mode_tensor import Continues_Mode_Tensor_CP
    from utils_continues import make_hyper_dict, make_LDS_continues_mode_paras

    scattered, settings = data.load(name, seed=0), SETTINGS[name]
    modes = scattered.train_idx.shape[1]
    everything = np.concatenate([scattered.train_idx, scattered.test_idx])
    values = [np.unique(everything[:, k]) for k in range(modes)]
    train, test = (
        np.stack([np.searchsorted(v, idx[:, k]) for k, v in enumerate(values)], axis=1)
        for idx in (scattered.train_idx, scattered.test_idx)
    )
    content = {
        "ndims": [len(v) for v in values],
        "tr_ind_DISCT": train,
        "te_ind_DISCT": test,
        "tr_ind_CONTI": scattered.train_idx,
        "te_ind_CONTI": scattered.test_idx,
        "tr_y": scattered.train_y,
        "te_y": scattered.test_y,
        "never_seen_test_idx": [[] for _ in values],
        "CONTI_2_DISCT_dicts": [{x: i for i, x in enumerate(v)} for v in values],
        "DISCT_2_CONTI_dicts": [dict(enumerate(v)) for v in values],
    }
    config = {
        "device": "cpu", "R_U": settings["rank"], "a0": 1, "b0": 1, "v": 1, "noise": 1,
        "kernel": {"matern12": "Matern_21", "matern32": "Matern_23"}[settings["kernel"]],
        "lengthscale_list": [settings["lengthscale"]] * modes, "variance_list": [settings["variance"]] * modes,
        "DAMPING": DAMPING[0], "DAMPING_tau": DAMPING[1], "DAMPING_gamma": 0.5,
    }  # fmt: skip
    hyper = make_hyper_dict(config)
    content["LDS_continues_mode_paras"] = make_LDS_continues_mode_paras(hyper, content)
    model = Continues_Mode_Tensor_CP(hyper, content)

    def epoch() -> None:
        model.reset()
        if settings["schedule"] == "outer":
            for k in range(modes):
                model.msg_approx_U(k)
        for k in range(modes):
            if settings["schedule"] == "inner":
                model.msg_approx_U(k)
            model.LDS_update(k)
            model.post_update_U(k)
        model.msg_approx_tau()
        model.post_update_tau()

    return epoch


def ours(name: str):
    """A function that does one of our epochs, training error included."""
    scattered = data.load(name, seed=0)
    model = FunBaTCP(**SETTINGS[name], damping_u=DAMPING[0], damping_tau=DAMPING[1], max_epochs=1, max_restarts=0)
    model.fit(scattered.train_idx, scattered.train_y)
    spread = float(scattered.train_y.std())
    return lambda: model._run(0, spread, None, last=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    threadpool_limits(1)
    for name in SETTINGS:
        rivals = {"ours": ours(name), "reference": reference(arguments.reference, name)}
        seconds: dict[str, list[float]] = {who: [] for who in rivals}
        for _ in range(arguments.epochs + 1):
            for who, epoch in rivals.items():
                start = time.perf_counter()
                epoch()
                seconds[who].append(time.perf_counter() - start)
        fast, slow = (float(np.median(seconds[who][1:])) for who in ("ours", "reference"))
        sys.stdout.write(
            f"{name:16} ours {1e3 * fast:8.2f} ms  reference {1e3 * slow:8.1f} ms  ratio {slow / fast:6.0f}\n"
        )


if __name__ == "__main__":
    main()
