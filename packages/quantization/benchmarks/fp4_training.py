"""FP4 training in emulation: seconds of its parts beside PyTorch's own layer and torchao's quantiser, on one thread.

    OMP_NUM_THREADS=1 python packages/quantization/benchmarks/fp4_training.py

The layer, the quantiser and the Hadamard transform are experiments too (``quantization/fp4_speed``).
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from tensorbench.core.timing import compare
from tensorbench.quantization.blocks import NVFP4 as BLOCKS
from tensorbench.quantization.blocks import fake_quantize
from tensorbench.quantization.fp4.hadamard import Hadamard, hadamard_matrix
from tensorbench.quantization.fp4.recipes import COMBINED, MXFP4, NVFP4, UE5M3, Recipe
from tensorbench.quantization.layers import QuantLinear

logger = logging.getLogger("benchmark")
DGE = Recipe(tensor_scale="absmax", rounding_gradient="dge", scale_gradient="linear_spline")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 512, generator=generator, requires_grad=True)
    layer = nn.Linear(512, 512, bias=False)
    dy = torch.randn(1024, 512, generator=generator)
    recipes = {"nvfp4": NVFP4, "mxfp4": MXFP4, "combined": COMBINED, "ue5m3": UE5M3, "dge": DGE}
    modules = {name: QuantLinear.of(layer, recipe.build(), generator) for name, recipe in recipes.items()}
    jobs = {
        name: lambda m=m: torch.autograd.grad(m(x), (x, layer.weight), dy)
        for name, m in {"nn.Linear": layer, **modules}.items()
    }
    seconds = compare(jobs, repeats=5)
    for name in recipes:
        ratio = seconds.ratio(name, "nn.Linear").value
        logger.info("step with %s: %.1f times nn.Linear's %.1f ms (goal 8)", name, ratio, 1e3 * seconds["nn.Linear"])

    bare = x.detach()
    jobs = {"pass": lambda: bare * 1.5, "ours": lambda: fake_quantize(bare, BLOCKS)}
    try:
        from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
    except ImportError:
        logger.info("torchao is not installed; its quantiser is left out")
    else:
        jobs["torchao"] = lambda: NVFP4Tensor.to_nvfp4(bare, 16, per_tensor_scale=bare.abs().amax() / 2688).dequantize()
    seconds = compare(jobs, repeats=5)
    for name in seconds:
        if name != "pass":
            logger.info("quantiser, %s: %.1f elementwise passes (goal 15)", name, seconds.ratio(name, "pass").value)

    transform, dense = Hadamard(128, None), hadamard_matrix(128).float()
    jobs = {"fast": lambda: transform(bare), "dense": lambda: bare.unflatten(-1, (4, 128)) @ dense}
    seconds = compare(jobs, repeats=5)
    logger.info(
        "chunks of 128: butterflies %.2f ms, dense product %.2f ms", 1e3 * seconds["fast"], 1e3 * seconds["dense"]
    )


if __name__ == "__main__":
    main()
