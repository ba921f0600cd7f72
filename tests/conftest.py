"""Settings of every test."""

import os

# Before torch is loaded; see `dua_lightning.__main__.main`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["WANDB_MODE"] = "offline"
