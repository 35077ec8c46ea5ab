"""Radiance fields: density and colour at points of a box, one class for each architecture."""
