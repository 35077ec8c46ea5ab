"""Fields: a density and a colour at every point of a box, whatever stands behind them."""
