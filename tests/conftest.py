"""Settings of every test."""

import os

# Before torch is loaded; see `dua_lightning.__main__.main`.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ["WANDB_MODE"] = "offline"
