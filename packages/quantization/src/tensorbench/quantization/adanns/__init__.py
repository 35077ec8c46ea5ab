"""Search in which every stage uses its own prefix of one Matryoshka embedding (Rege, Kusupati et al., 2023)."""
