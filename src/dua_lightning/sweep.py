"""After a sweep: the records of all its jobs as one table."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Collect(Callback):
    """Writes `records.csv`, `summary.json` and the figures of all jobs into the sweep's folder, and prints the table.

    Only jobs of this very sweep count; a folder may hold the jobs of earlier ones.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.started = {path: path.stat().st_mtime_ns for path in _records(config)}

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        new = [path for path in _records(config) if path.stat().st_mtime_ns != self.started.get(path)]
        if not new:
            return
        import pandas as pd
        from rich.console import Console

        from dua_lightning.files import write_text
        from dua_lightning.pipeline import report
        from dua_lightning.report.records import read

        folder = Path(config.hydra.sweep.dir)
        frame = pd.concat([read(path) for path in new])
        write_text(folder / "records.csv", frame.to_csv(index=False))
        report(folder, f"sweep of {len(new)} jobs", [], None, Console(soft_wrap=True))


def _records(config: DictConfig) -> list[Path]:
    folder = Path(config.hydra.sweep.dir)
    return sorted(folder.glob("*/records.csv"), key=lambda path: (len(path.parent.name), path.parent.name))
