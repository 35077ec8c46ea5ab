"""TensoRF: radiance fields as sums of products of planes and lines (VM) or of lines (CP)."""
