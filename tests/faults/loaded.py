"""What every forked child has before it starts: the program, loaded, and no thread of torch's.

A process that is forked after torch has started threads would wait for them for ever.
"""

import hypothesis  # noqa: F401
import pytest  # noqa: F401
import torch

import dua_lightning.__main__
import dua_lightning.pipeline  # noqa: F401
from dua_lightning.data import digits

torch.set_num_threads(1)
digits.mnist_subset()
digits.uci_digits()
for photograph in (*digits.SERVER_PHOTOGRAPHS, *digits.USER_PHOTOGRAPHS):
    digits.photograph(photograph)
