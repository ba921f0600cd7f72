"""Loops that numba compiles: the only place where speed comes before plainness."""
