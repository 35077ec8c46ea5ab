"""Joint optimisation: microseconds of its parts on one thread, beside libraries that do the same work.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/radiance_fields/benchmarks/joint_pose.py

Peers: ``roma`` for exponentials of rotations, scikit-image for similarities, SciPy for smoothed images. Blurred
against unblurred fields is an experiment (``radiance_fields/blur_speed``).
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from tensorbench.core.timing import compare
from tensorbench.radiance_fields.joint_pose.kernels import blur_images, make_kernel
from tensorbench.radiance_fields.poses import procrustes, se3_exp, so3_exp, so3_log

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    import roma
    from scipy.ndimage import gaussian_filter
    from skimage.transform import estimate_transform

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    w, v = torch.randn(1000, 3, generator=generator), torch.randn(1000, 3, generator=generator)
    times = compare({"ours": lambda: so3_exp(w), "roma": lambda: roma.rotvec_to_rotmat(w)})
    logger.info("1000 rotations: ours %.0f µs, roma %.0f µs", *(1e6 * t for t in times.values()))
    rotations = so3_exp(w)
    times = compare({"ours": lambda: so3_log(rotations), "roma": lambda: roma.rotmat_to_rotvec(rotations)})
    logger.info("and back: ours %.0f µs, roma %.0f µs", *(1e6 * t for t in times.values()))
    times = compare({"ours": lambda: se3_exp(w, v), "matrix_exp": lambda: torch.linalg.matrix_exp(_algebra(w, v))})
    logger.info(
        "1000 rigid motions: ours %.0f µs, torch's matrix exponential %.0f µs", *(1e6 * t for t in times.values())
    )
    x = torch.randn(100, 3, generator=generator)
    y = 2 * x @ rotations[0].mT + 1
    a, b = x.numpy(), y.numpy()
    times = compare({"ours": lambda: procrustes(x, y), "scikit-image": lambda: estimate_transform("similarity", a, b)})
    logger.info("similarity of 100 points: ours %.0f µs, scikit-image %.0f µs", *(1e6 * t for t in times.values()))
    images = torch.rand(30, 48, 48, 3, generator=generator)
    kernel, array = make_kernel("gaussian", 1.2), np.asarray(images)
    times = compare({
        "ours": lambda: blur_images(images, kernel),
        "scipy": lambda: gaussian_filter(array, (0, 1.2, 1.2, 0), mode="nearest", truncate=3.0),
    })  # fmt: skip
    logger.info("30 smoothed images of 48²: ours %.2f ms, SciPy %.2f ms", *(1e3 * t for t in times.values()))


def _algebra(w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    from tensorbench.radiance_fields.poses import skew

    out = torch.zeros(len(w), 4, 4)
    out[:, :3, :3], out[:, :3, 3] = skew(w), v
    return out


if __name__ == "__main__":
    main()
