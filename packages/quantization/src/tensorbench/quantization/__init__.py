"""Few-bit numbers: exact formats, block quantisers, training recipes, bit search, matrix units, retrieval."""
