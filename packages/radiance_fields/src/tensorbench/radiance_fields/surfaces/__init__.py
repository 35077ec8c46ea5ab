"""Surfaces as maps from the plane: networks, their differential geometry, isometries, and tracking by one camera."""
