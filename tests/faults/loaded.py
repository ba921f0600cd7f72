"""What every forked child has before it starts: the program, loaded, and no thread of torch's.

A process that is forked after torch has started threads would wait for them for ever.
"""

from importlib import import_module

import torch

from dua_lightning.data import digits

# The program loads each of these only where it is needed; the last two are what a test process has as its main module.
for name in ("hydra", "dua_lightning.run.sweep", "dua_lightning.run.pipeline", "dua_lightning.report.progress"):
    import_module(name)
for name in ("torch.func", "torchvision.datasets", "hypothesis", "pytest"):
    import_module(name)

torch.set_num_threads(1)
digits.mnist_subset()
digits.uci_digits()
for photograph in (*digits.SERVER_PHOTOGRAPHS, *digits.USER_PHOTOGRAPHS):
    digits.photograph(photograph)
