"""Weights & Biases: how a run ended."""

from contextlib import suppress
from pathlib import Path

import pytest

from dua_lightning.report.wandb import WandbLogger
from dua_lightning.stopping import Stopped
from tests.wandb_file import records


@pytest.mark.parametrize(("error", "code"), [(None, 0), (ValueError(), 1), (Stopped(2), 1)], ids=str)
def test_a_run_that_did_not_end_well_is_marked_as_failed(
    error: BaseException | None, code: int, tmp_path: Path
) -> None:
    logger = WandbLogger(tmp_path, {}, "name")
    with suppress(ValueError, Stopped):
        try:
            if error is not None:
                raise error
        finally:
            logger.close()
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    (last,) = [record.exit for record in records(path) if record.WhichOneof("record_type") == "exit"]
    assert last.exit_code == code
