"""Tensor decompositions for machine learning: functional, Bayesian, exact CP, structure search."""
