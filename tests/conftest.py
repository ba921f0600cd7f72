"""Settings of every test."""

import itertools
import os

import pytest

# Before torch is loaded; see `dua_lightning.__main__.main`.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
# Two processes run the tests (`make test`), each on a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one has stored; the folder is made by the run that needs it."""
    monkeypatch.setenv("DUA_STORE_DIR", str(tmp_path_factory.getbasetemp() / f"store-{next(_numbers)}"))
