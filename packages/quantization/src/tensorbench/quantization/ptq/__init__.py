"""Bits for every layer of a trained network: calibration, sensitivities, guided search, costs (arXiv 2302.01382)."""
