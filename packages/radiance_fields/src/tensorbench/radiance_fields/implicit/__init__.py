"""Implicit representations: networks of coordinates, and tensors whose factors are networks of one coordinate each."""
