"""Sweeps: one failing job, jobs that were finished before, a stop, and the table of all."""

import json
import math
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import yaml
from hydra.core.utils import JobReturn
from hydra.errors import MissingConfigException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dua_lightning.errors import InputError
from dua_lightning.report import figures
from dua_lightning.report.records import Record, read, write
from dua_lightning.report.reduce import over_seeds, reduce
from dua_lightning.report.runs import read_runs
from dua_lightning.run import pipeline, provenance
from dua_lightning.run.folders import quoted
from dua_lightning.run.settings import Settings
from dua_lightning.run.stopping import Stopped, continue_in
from dua_lightning.run.sweep import one_line
from dua_lightning.store import versions as code
from tests.helpers.cli import Done, run

SWEEP = ("-m", "method=racl,imm", "seed=1,2")


class Work:
    """Stands for what a job computes: counts the jobs that run, and fails where it is told to."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []
        self.fails: dict[tuple[str, int], BaseException] = {}
        self.content = "these pictures"

    def __call__(self, cfg: DictConfig, settings: Settings) -> str:
        job = (cfg.method.name, cfg.seed)
        self.ran.append(job)
        if job in self.fails:
            raise self.fails[job]
        folder = Path(pipeline.HydraConfig.get().runtime.output_dir)
        provenance.write(cfg, folder)
        accuracy = 50.0 + cfg.seed + cfg.trainer.max_epochs
        key = ("digits", "mlp", cfg.method.name, "mas", "none", f"MAS-{cfg.method.name}")
        rest = ("paper", "server", "last", "nothing", "u", 1, cfg.seed)
        write([Record(*key, *rest, after=1, on=1, accuracy=accuracy)], folder / "records.csv")
        return self.content


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """The work, without the figures of the sweep, which take longer than all the rest and have tests of their own."""
    work = Work()
    monkeypatch.setattr(pipeline, "run", work)
    monkeypatch.setattr(pipeline, "content", lambda cfg: work.content)
    monkeypatch.setattr(figures, "draw_all", lambda *_: [])
    return work


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Done]:
    return lambda *arguments: run(
        *arguments, f"paths.output_dir={tmp_path / 'out'}", capfd=capfd, monkeypatch=monkeypatch
    )


ALL = [("racl", 1), ("racl", 2), ("imm", 1), ("imm", 2)]


def table(folder: Path) -> list[tuple[str, int]]:
    frame = read(folder / "out" / "records.csv")
    return list(zip(frame["method"], frame["seed"], strict=True))


def test_a_failing_job_does_not_stop_the_others_and_is_named_with_its_command(
    work: Work, dua: Callable[..., Done], tmp_path: Path
) -> None:
    work.fails[("racl", 2)] = InputError("it is broken; mend it")
    done = dua(*SWEEP)
    assert done.status == 2
    assert work.ran == ALL
    assert table(tmp_path) == [ALL[0], *ALL[2:]]
    assert "sweep of 3 jobs" in done.out
    (line,) = done.err.splitlines()
    assert line.startswith("error: job 1 failed: it is broken; mend it; alone: dua ")

    alone = shlex.split(line.partition("dua ")[2])
    del work.fails[("racl", 2)], work.ran[:]
    assert dua(*(text for text in alone if not text.startswith("paths.output_dir"))).status == 0
    assert work.ran == [("racl", 2)]
    assert not list((tmp_path / "out").glob("*/failed.json"))
    done = dua(*SWEEP)
    assert (done.status, done.err) == (0, "")
    assert work.ran == [("racl", 2)], "the repeated job counts as finished"
    assert table(tmp_path) == ALL


def test_a_printed_command_runs_as_it_is_printed(
    work: Work, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, name = tmp_path / "lr=0.1,try (1) $HOME 'x'", "a, b=1 [c]"
    work.fails[("racl", 2)] = InputError("no")
    given = ("-m", "seed=1,2", f"paths.output_dir={quoted(folder.name)}", f"name={quoted(name)}")
    done = run(*given, capfd=capfd, monkeypatch=monkeypatch)
    printed = shlex.split(done.err.strip().partition("alone: dua ")[2])
    work.fails.clear()
    assert run(*printed, capfd=capfd, monkeypatch=monkeypatch).status == 0
    assert work.ran == [("racl", 1), ("racl", 2), ("racl", 2)]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert (folder / "1" / "done.json").exists()
    assert yaml.safe_load((folder / "1" / "config.yaml").read_text())["name"] == name
    work.fails[("racl", 3)] = Stopped(signal.SIGTERM)
    done = run("seed=3", "paths.output_dir='a=b ${now:%Y}'", capfd=capfd, monkeypatch=monkeypatch)
    printed = shlex.split(done.err.strip().partition("to continue: dua ")[2])
    work.fails.clear()
    assert run(*printed, capfd=capfd, monkeypatch=monkeypatch).status == 0
    (made,) = tmp_path.glob("a=b *")
    assert (made / "done.json").exists()


class Seen(Callback):
    """Notes what Hydra gives to a sweeper for each job."""

    values: ClassVar[list[Any]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        self.values.append(job_return.return_value)


def test_a_sweeper_gets_the_average_accuracy_of_each_job_or_what_is_asked_for(
    work: Work, dua: Callable[..., Done]
) -> None:
    work.fails[("imm", 1)] = InputError("no")
    seen = (*SWEEP, f"+hydra.callbacks.seen._target_={__name__}.Seen")
    Seen.values.clear()
    assert dua(*seen).status == 2
    assert Seen.values == pytest.approx([61.0, 62.0, math.nan, 62.0], nan_ok=True)
    # Jobs that had finished before count too; the forgetting of one task is not defined.
    work.fails.clear()
    Seen.values.clear()
    assert dua(*seen, "objective=forgetting").status == 0
    assert work.ran == [*ALL, ALL[2]]
    assert len(Seen.values) == 4
    assert all(math.isnan(value) for value in Seen.values)


def test_an_unforeseen_failure_is_reported_too_and_gives_status_1(
    work: Work, dua: Callable[..., Done], tmp_path: Path
) -> None:
    work.fails = {("racl", 1): ZeroDivisionError("by zero\nindeed"), ("imm", 1): OSError(28, "No space left", "x")}
    done = dua(*SWEEP)
    assert done.status == 1
    assert [line.partition("; make room")[0].partition("; alone")[0] for line in done.err.splitlines()] == [
        "error: job 0 failed: ZeroDivisionError: by zero; indeed",
        "error: job 2 failed: x cannot be used (No space left)",
    ]
    assert "Traceback" in (tmp_path / "out" / "0" / "dua.log").read_text()
    assert table(tmp_path) == [ALL[1], ALL[3]]


def test_the_table_of_all_has_the_digits_of_the_jobs(work: Work, dua: Callable[..., Done], tmp_path: Path) -> None:
    assert dua(*SWEEP).status == 0
    frames = [pd.read_csv(tmp_path / "out" / str(job) / "records.csv", dtype=str) for job in range(4)]
    assert (tmp_path / "out" / "records.csv").read_text() == pd.concat(frames).to_csv(index=False)


@pytest.mark.slow
def test_rows_of_one_name_are_told_apart_by_their_settings(
    work: Work, dua: Callable[..., Done], tmp_path: Path
) -> None:
    assert dua(*SWEEP, "trainer.max_epochs=1,2").status == 0
    means = over_seeds(reduce([read(tmp_path / "out" / "records.csv")]).draws)["average_accuracy"].to_dict()
    assert means == {f"MAS-{m}, max_epochs={n}": 51.5 + n for m in ("racl", "imm") for n in (1, 2)}
    assert len(read_runs(tmp_path / "out")) == 8


def test_when_every_job_fails_there_is_no_table(work: Work, dua: Callable[..., Done], tmp_path: Path) -> None:
    work.fails = {job: InputError("no") for job in ALL}
    assert dua(*SWEEP).status == 2
    assert not (tmp_path / "out" / "records.csv").exists()


def test_finished_jobs_run_once_and_say_so(work: Work, dua: Callable[..., Done], tmp_path: Path) -> None:
    first = dua(*SWEEP)
    before = pd.read_csv(tmp_path / "out" / "records.csv")
    (tmp_path / "out" / "records.csv").unlink()
    second = dua(*SWEEP, "trainer.log_every_n_steps=1", "paths.store_dir=x", "objective=forgetting")
    assert (first.status, second.status) == (0, 0)
    assert work.ran == ALL
    assert "finished before, skipped" not in first.out
    assert second.out.count("finished before, skipped") == 4
    assert "sweep of 4 jobs" in second.out
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "records.csv"), before)


@pytest.mark.slow
def test_a_job_with_other_settings_or_other_records_runs_again(
    work: Work, dua: Callable[..., Done], tmp_path: Path
) -> None:
    dua(*SWEEP)
    dua(*SWEEP, "trainer.max_epochs=3")
    assert work.ran == 2 * ALL
    (tmp_path / "out" / "2" / "records.csv").write_text("nonsense")
    (tmp_path / "out" / "0" / "done.json").write_text("{")
    dua(*SWEEP, "trainer.max_epochs=3")
    assert work.ran == [*ALL, *ALL, ALL[0], ALL[2]]


@pytest.mark.slow
def test_a_job_of_other_code_runs_again(work: Work, dua: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    dua(*SWEEP)
    monkeypatch.setattr(code, "version", lambda *_: "other")
    dua(*SWEEP)
    assert work.ran == 2 * ALL


@pytest.mark.slow
def test_a_job_of_other_pictures_runs_again(work: Work, dua: Callable[..., Done]) -> None:
    dua(*SWEEP)
    work.content = "others under the same names"
    assert dua(*SWEEP).out.count("finished before, skipped") == 0
    assert work.ran == 2 * ALL
    assert dua(*SWEEP).out.count("finished before, skipped") == 4


@pytest.mark.slow
def test_a_job_that_is_given_again_and_does_not_end_is_not_done(
    work: Work, dua: Callable[..., Done], tmp_path: Path
) -> None:
    """Its folder has the new settings and the old records."""
    dua(*SWEEP)
    work.fails[("racl", 2)] = Stopped(signal.SIGTERM)
    assert dua(*SWEEP, "trainer.max_epochs=3").status == 143
    assert not (tmp_path / "out" / "1" / "done.json").exists()
    work.fails.clear()
    del work.ran[:]
    dua(*SWEEP)
    assert work.ran == ALL[:2], "the first was done with other settings, the second not at all"


def test_a_run_alone_is_never_skipped(work: Work, dua: Callable[..., Done]) -> None:
    for _ in range(2):
        assert dua("seed=1").status == 0
    assert len(work.ran) == 2


@pytest.mark.slow
def test_the_jobs_of_an_earlier_sweep_do_not_count(work: Work, dua: Callable[..., Done], tmp_path: Path) -> None:
    dua(*SWEEP)
    work.fails[("racl", 3)] = InputError("no")
    dua("-m", "method=racl,imm", "seed=3")
    assert table(tmp_path) == [("imm", 3)]
    del work.fails[("racl", 3)]
    done = dua("-m", "method=racl,imm", "seed=3")
    assert done.status == 0
    assert table(tmp_path) == [("racl", 3), ("imm", 3)]


def test_a_stopped_sweep_continues_with_the_first_unfinished_job(
    work: Work, dua: Callable[..., Done], tmp_path: Path
) -> None:
    work.fails[("imm", 1)] = Stopped(signal.SIGTERM)
    done = dua(*SWEEP)
    assert done.status == 143
    assert work.ran == ALL[:3]
    (line,) = done.err.strip().splitlines()
    assert line.startswith("stopped; to continue: dua -m method=racl,imm")
    assert line.count("paths.output_dir=") == 1
    work.fails.clear()
    assert dua(*SWEEP).status == 0
    assert work.ran == [*ALL[:3], *ALL[2:]]
    assert table(tmp_path) == ALL


def test_a_stop_names_the_folder_that_was_made_for_the_sweep(
    work: Work, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    work.fails[("racl", 2)] = Stopped(signal.SIGINT)
    done = run(*SWEEP, capfd=capfd, monkeypatch=monkeypatch)
    assert done.status == 130
    folder = done.err.strip().partition("paths.output_dir=")[2]
    assert (tmp_path / folder / "0" / "records.csv").exists()


def test_results_that_cannot_be_written_end_the_sweep_in_one_line(
    work: Work, dua: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "out" / "summary.json").mkdir(parents=True)
    done = dua(*SWEEP)
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path / "out") in line


def test_a_note_has_what_is_needed(work: Work, dua: Callable[..., Done], tmp_path: Path) -> None:
    work.fails[("imm", 2)] = InputError("no")
    dua(*SWEEP)
    assert set(json.loads((tmp_path / "out" / "0" / "done.json").read_text())) == {
        "configuration",
        "content",
        "records",
    }
    note = json.loads((tmp_path / "out" / "3" / "failed.json").read_text())
    assert (note["reason"], note["bad_input"]) == ("no", True)
    assert f"paths.output_dir={tmp_path / 'out'} hydra.run.dir={tmp_path / 'out' / '3'}" in note["command"]


def test_a_launcher_that_is_not_installed_is_named_with_the_command_that_installs_it() -> None:
    said = one_line(MissingConfigException("no", missing_cfg_file="hydra/launcher/submitit_slurm"))
    assert said.startswith("hydra/launcher=submitit_slurm is a plugin that is not installed; ")
    assert said.endswith("pip install 'dua_lightning[slurm]'")
    assert "[joblib]" in one_line(MissingConfigException("no", missing_cfg_file="hydra/launcher/joblib"))
    other = MissingConfigException("no", missing_cfg_file="hydra/launcher/x", options=["basic", "slurm"])
    assert one_line(other) == "hydra/launcher=x is not a choice; hydra/launcher has basic, slurm"


@pytest.mark.parametrize("name", ["UncompletedJobError", "FailedJobError", "TerminatedWorkerError"])
def test_a_job_that_has_died_is_told_with_the_command_that_continues(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dua", "-m", "seed=1,2"])
    continue_in("paths.output_dir=out")
    assert one_line(type(name, (RuntimeError,), {})("it was killed\nlong report")) == (
        "a job of the sweep has died (it was killed); to continue: dua -m seed=1,2 paths.output_dir=out"
    )
