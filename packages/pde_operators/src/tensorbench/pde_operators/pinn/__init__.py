"""Physics-informed networks: networks for high frequencies, samplers of boxes, and residual losses."""
