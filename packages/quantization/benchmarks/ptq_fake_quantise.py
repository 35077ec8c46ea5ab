"""Fake quantisation against torch's own kernel, and a whole evaluation at few bits against the float model.

    OMP_NUM_THREADS=1 python packages/quantization/benchmarks/ptq_fake_quantise.py

One process, one thread, no gradients. torch's kernel also writes the mask that its backward pass needs.
"""

from __future__ import annotations

import torch

from tensorbench.core.tasks.resnet import ResNet8
from tensorbench.core.timing import compare
from tensorbench.quantization.ptq.calibrate import calibrate
from tensorbench.quantization.ptq.quantizer import Quantizer, QuantSpec
from tensorbench.quantization.ptq.wrap import QuantModel


def main() -> None:
    torch.set_num_threads(1)
    x = torch.randn(250, 8, 14, 14, generator=torch.Generator().manual_seed(0))
    quantizer = Quantizer(QuantSpec(8))
    quantizer.set_range(x.amin(), x.amax())
    scale, zero = quantizer.scale.detach(), quantizer.zero_point
    model = ResNet8().eval()
    images = torch.rand(250, 1, 14, 14, generator=torch.Generator().manual_seed(1))
    wrapped = QuantModel.wrap(model, images[:1], (16, 8))
    calibrate(wrapped, [images])
    with torch.inference_mode():
        seconds = compare(
            {"ours": lambda: quantizer(x),
             "torch": lambda: torch.fake_quantize_per_tensor_affine(x, scale, zero, -127, 127)}, repeats=9
        )  # fmt: skip
        print(f"{x.numel():,} numbers: {seconds.speedup('ours', 'torch').value:.1f}x as fast as torch's kernel")
        rivals = {"float": lambda: model(images)}
        for precision in (16, 8):
            rivals[str(precision)] = lambda p=precision: (wrapped.set_config(p), wrapped(images))
        seconds = compare(rivals, repeats=9, min_seconds=0.02)
        for name in ("16", "8"):
            print(f"ResNet-8 at {name} bits: {seconds.ratio(name, 'float').value:.2f} times the float model's time")


if __name__ == "__main__":
    main()
