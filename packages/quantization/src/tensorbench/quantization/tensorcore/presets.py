"""Matrix units by name, as published measurements describe them.

| generation | products at once | bits below fp32 | smallest anchor, fp32 / fp16 out |
|---|---|---|---|
| Volta (V100) | 4 | 0 | none / -19 |
| Turing (T4) | 4 | 1 | as Ampere |
| Ampere (A100) | fp16, bf16 8; tf32 4 | 1 | -132 / -20 |
| Hopper (H100) | fp16, bf16 16; tf32 8; fp8 32 | 2; fp8 -10 | -133 / -21 |

Turing to Ampere: Fasi, Higham, Mikaitis, Pranesh (PeerJ CS 7:e330, 2021); Hopper, the anchors and fp8: Khattak and
Mikaitis (arXiv 2512.07004), who confirmed their models on 10^5 and more vectors. Turing's anchor is not published and
assumed.
``*_fp16_fp16`` accumulate in fp16, rounded to nearest; fp64 on Ampere is a chain of IEEE fused multiply-adds.
"""

from __future__ import annotations

from tensorbench.core.errors import unknown

from .unit import MMAUnit


def _fused(name: str, in_fmt: str, k_step: int, extra_bits: int, anchor: int | None) -> MMAUnit:
    carry = (4 * k_step + 2).bit_length() - 1  # products lie below 4, C below 2
    return MMAUnit(in_fmt, "fp32", k_step, extra_bits, carry, min_exponent=anchor, name=name)


def _to_fp16(name: str, k_step: int, extra_bits: int, anchor: int) -> MMAUnit:
    carry = (4 * k_step + 2).bit_length() - 1
    return MMAUnit("fp16", "fp16", k_step, extra_bits, carry, out_round="RN", min_exponent=anchor, name=name)


def _chain(name: str, in_fmt: str, acc_fmt: str = "fp32") -> MMAUnit:
    return MMAUnit(in_fmt, acc_fmt, align="chain", round="RN", out_round="RN", name=name)


_UNITS = (
    _fused("volta_fp16", "fp16", 4, 0, None),
    _to_fp16("volta_fp16_fp16", 4, 0, -19),
    _fused("turing_fp16", "fp16", 4, 1, -132),
    _to_fp16("turing_fp16_fp16", 4, 1, -20),
    _fused("ampere_fp16", "fp16", 8, 1, -132),
    _to_fp16("ampere_fp16_fp16", 8, 1, -20),
    _fused("ampere_bf16", "bf16", 8, 1, -132),
    _fused("ampere_tf32", "tf32", 4, 1, -132),
    _chain("ampere_fp64", "fp64", "fp64"),
    MMAUnit("int8", "int32", 32, align="integer", name="ampere_int8"),
    _fused("hopper_fp16", "fp16", 16, 2, -133),
    _to_fp16("hopper_fp16_fp16", 16, 2, -21),
    _fused("hopper_bf16", "bf16", 16, 2, -133),
    _fused("hopper_tf32", "tf32", 8, 2, -133),
    _fused("hopper_e4m3", "e4m3", 32, -10, -133),
    _fused("hopper_e5m2", "e5m2", 32, -10, -133),
    _chain("ieee_fma_chain", "fp16"),
    _chain("ieee_fma_chain_bf16", "bf16"),
    _chain("ieee_fma_chain_tf32", "tf32"),
    _chain("ieee_fma_chain_fp32", "fp32"),
    MMAUnit("fp16", "fp32", align="exact", out_round="RN", name="exact"),
    MMAUnit("bf16", "fp32", align="exact", out_round="RN", name="exact_bf16"),
    MMAUnit("fp32", "fp32", align="exact", out_round="RN", name="exact_fp32"),
)
UNITS: dict[str, MMAUnit] = {unit.name: unit for unit in _UNITS}
"""Every preset by name."""


def get_unit(name: str | MMAUnit) -> MMAUnit:
    """Raises ValueError for an unknown name, with the nearest known one."""
    if isinstance(name, MMAUnit):
        return name
    if name not in UNITS:
        raise ValueError(unknown("matrix unit", name, UNITS))
    return UNITS[name]
