"""The state of every forked child before it starts: the program, loaded, and no thread of torch's.

A process that is forked after torch has started threads would wait for them for ever. Nothing here computes gradients,
and nothing is compiled.
"""

from importlib import import_module

import torch

from dua_lightning.data import digits
from dua_lightning.store.versions import version

# The program loads each of these only where it is needed; the last two are what a test process has as its main module.
for name in ("sweep", "pipeline", "training"):
    import_module(f"dua_lightning.run.{name}")
for name in (
    "merge.mode",
    "report.figures",
    "report.progress",
    "report.runs",
    "kernels.weighted_mean",
    "adapt",
    "user",
):
    import_module(f"dua_lightning.{name}")
for name in ("hydra", "lightning.pytorch.loggers", "torch.func", "torchvision.datasets", "hypothesis", "pytest"):
    import_module(name)

torch.set_num_threads(1)
digits.mnist_subset()
digits.uci_digits()
for photograph in (*digits.SERVER_PHOTOGRAPHS, *digits.USER_PHOTOGRAPHS):
    digits.photograph(photograph)
# The sources of the program are read once.
version("dua_lightning.run.pipeline.run", "dua_lightning.data.digits.digits", "dua_lightning.nets.mlp")
