"""Solvers that make the reference data; each is tested by its measured order of convergence."""
