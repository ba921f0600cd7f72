"""Settings of every test."""

import copy
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(autouse=True, scope="session")
def _parsed_once() -> Iterator[None]:
    """A file of the configuration is parsed once in a process, which takes half of the time of composing."""
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    # Hydra loads its plugins' modules anew when it looks for them.
    Plugins.instance()
    FileConfigSource = SourcesRegistry.instance().resolve("file")
    load, parsed = FileConfigSource.load_config, {}

    def once(source: Any, config_path: str) -> Any:
        file = Path(source.path) / source._normalize_file_name(config_path)
        if not file.exists():
            return load(source, config_path)
        about = file.stat()
        key = (source.provider, source.path, config_path, about.st_ino, about.st_mtime_ns, about.st_size)
        if key not in parsed:
            parsed[key] = load(source, config_path)
        return copy.deepcopy(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", once)
        yield
