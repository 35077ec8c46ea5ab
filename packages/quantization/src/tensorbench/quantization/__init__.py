"""Few-bit numbers: formats exact to the bit, block quantisers, training recipes, bit search, matrix units, retrieval."""
