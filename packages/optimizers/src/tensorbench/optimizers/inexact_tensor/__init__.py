"""Accelerated second- and third-order methods whose derivatives are noisy and whose steps are inexact."""
