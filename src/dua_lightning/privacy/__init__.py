"""Privacy: what a prior gives away, and how to give less."""
