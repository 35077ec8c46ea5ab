"""Infinite-width networks that learn features: which scalings have such a limit, and the limit of linear ones computed.

Yang, Hu (2021): Feature Learning in Infinite-Width Neural Networks (Tensor Programs IV), arXiv 2011.14522.
"""

from .abc import ABC, Classification, PhaseDiagram, classify, equivalent, preset, uniform_sweep
from .abc_mlp import ABCMLP
from .arccosine import lin_kernel, relu_F00, relu_F02, relu_F11
from .cbow import CBOW
from .kernel_learners import InfGP1LP, InfNTK1LP, PoolLearner
from .limit_gap import LimitGap, limit_gap
from .linear_limit import FinLinear1LP, InfLinear1LP
from .maml import MAML, TaskBatch

__all__ = [
    "ABC",
    "ABCMLP",
    "CBOW",
    "MAML",
    "Classification",
    "FinLinear1LP",
    "InfGP1LP",
    "InfLinear1LP",
    "InfNTK1LP",
    "LimitGap",
    "PhaseDiagram",
    "PoolLearner",
    "TaskBatch",
    "classify",
    "equivalent",
    "limit_gap",
    "lin_kernel",
    "preset",
    "relu_F00",
    "relu_F02",
    "relu_F11",
    "uniform_sweep",
]  # fmt: skip
