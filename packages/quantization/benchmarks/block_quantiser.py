"""Block quantisers beside torchao's eager ``to_mx`` and a copy, and a training step of the quantised layer.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/quantization/benchmarks/block_quantiser.py

The claims are those of the experiment ``quantization/quantizer_speed``; this prints more sizes of layers.
"""

from __future__ import annotations

import logging

import torch

from tensorbench.quantization.experiments.quantizer_speed import layers, quantisers

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 4096, generator=generator)
    for elem in ("e4m3", "e2m1"):
        seconds = quantisers(x, elem, 3)
        logger.info("2^24 floats, %s: %s", elem, ", ".join(f"{k} {1e3 * v:.0f} ms" for k, v in seconds.items()))
    for width in (64, 256, 1024):
        seconds = layers(["mxfp8_e4m3", "mxfp4", "nvfp4"], 1024, width, 3, generator)
        ratios = ", ".join(f"{name} {seconds.ratio(name, 'linear').value:.1f}" for name in seconds if name != "linear")
        logger.info("step over nn.Linear, 1024 tokens, %d x %d: %s", width, width, ratios)


if __name__ == "__main__":
    main()
