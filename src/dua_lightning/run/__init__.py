"""Everything that knows Hydra: a configuration becomes rows, rows become results.

Nothing is imported here: signals are minded before anything heavy is loaded.
"""
