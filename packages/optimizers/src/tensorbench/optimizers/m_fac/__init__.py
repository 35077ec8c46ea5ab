"""Products with the inverse of the damped empirical Fisher matrix, for pruning and for descent (M-FAC)."""

from .dynamic import DynamicMFAC
from .optimizer import MFAC
from .static import StaticMFAC, woodbury

__all__ = ["MFAC", "DynamicMFAC", "StaticMFAC", "woodbury"]
