"""EN-T: recoders at the edge of a multiplier array, with the circuits, the arrays and the cost models to judge them."""
