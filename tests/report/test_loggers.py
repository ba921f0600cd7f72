"""Lightning's loggers, each read back: the curves of trainings, the results of the run, and how it ended."""

import json
import os
import re
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from dua_lightning.__main__ import CONF
from dua_lightning.errors import InputError
from dua_lightning.report import curves, figures, logged, loggers, records
from dua_lightning.report.loggers import RunLogger
from dua_lightning.report.reduce import Reduced, reduce
from dua_lightning.run.stopping import Stopped
from tests.helpers.cli import TINY, Done, refused, run
from tests.helpers.process import spawn
from tests.helpers.wandb_file import records as wandb_records
from tests.report.folders import COSTS
from tests.report.test_progress import ACCURACIES, fit_with
from tests.report.test_tables import made

CONFIG = {
    "name": "study",
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "fidelity": {"name": "paper"},
    "adapt": {"name": "none"},
    "seed": 2,
}
SWEEP = Path(__file__).parents[2] / "experiments" / "wandb_sweep.yaml"
KINDS = {"csv": CSVLogger, "tensorboard": TensorBoardLogger, "wandb": WandbLogger, "mlflow": MLFlowLogger}
ENDS = [None, ValueError(), Stopped(2)]
TRAININGS = [("L2-transfer", "a"), ("L2-transfer", "b"), ("LwF", "a")]
Results = tuple[Reduced, pd.DataFrame, Path, list[Path]]


@pytest.fixture(autouse=True)
def _file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client by itself has files and no databases, and newer ones want to be asked for them."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def start(kind: str, folder: Path, row: str = "LwF", seed: int | list[int] = 2, **settings: Any) -> RunLogger | None:
    """The logger as `conf/logger` has it, started."""
    node = yaml.safe_load((CONF / "logger" / f"{kind}.yaml").read_text())
    assert getattr(lightning_loggers, node.pop("_target_").rpartition(".")[2]) is KINDS[kind]
    if kind == "mlflow":
        pytest.importorskip("mlflow")
        node["tracking_uri"] = f"file:{folder / 'mlruns'}"
    return loggers.start(KINDS[kind], {**node, **settings}, folder, {**CONFIG, "seed": seed}, row)


def log(kind: str, folder: Path, results: Results) -> RunLogger:
    """Three trainings of four epochs each, the results, and the end."""
    run = start(kind, folder)
    for training, task in TRAININGS:
        logger = loggers.curves(run, 2, training, task)
        assert isinstance(logger, Logger)
        fit_with(logger, task)
    loggers.results(run, *results)
    loggers.close(run)
    return run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The reduced records of one row, its costs, the file of the records, and two figures."""
    folder = tmp_path_factory.mktemp("results")
    records.write([record for record in made() if record.method == "racl"], folder / "records.csv")
    reduced = reduce(records.chunks(folder / "records.csv"))
    return reduced, pd.DataFrame(COSTS), folder / "records.csv", figures.draw_all(reduced, folder)


@pytest.fixture(scope="module")
def merits(results: Results) -> dict[str, float]:
    found = logged.merits(results[0])
    names = ("average_accuracy", "forgetting")
    assert set(found) == {*names, *(f"MAS-RACL/{name}" for name in names)}
    return found


def test_a_run_without_a_logger_logs_nothing(results: Results) -> None:
    assert loggers.curves(None, 1, "LwF", "a") is False
    loggers.results(None, *results)
    loggers.close(None)


def test_figures_of_merit_that_are_not_defined_are_left_out() -> None:
    found = logged.merits(reduce([pd.DataFrame(made())]))
    assert "Joint/average_accuracy" in found
    assert "Joint/forgetting" not in found
    assert "average_accuracy" not in found, "several rows have no figures in common"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "apart"), [(7, False), ([7], False), ([7, 8], True)])
def test_the_seed_is_in_the_names_of_curves_where_a_run_has_several(
    kind: str, seed: int | list[int], apart: bool, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard" if kind == "tensorboard" else "lightning")
    run = start(kind, tmp_path, seed=seed)
    logger = loggers.curves(run, 7, "LwF", "a")
    loggers.close(run)
    expected = "seed_7/LwF/a" if apart else "LwF/a"
    if isinstance(logger, loggers.PrefixedLogger):
        assert logger.prefix == expected
    else:
        assert isinstance(logger, CSVLogger | TensorBoardLogger)
        assert logger.log_dir == f"{tmp_path}/{kind}/version_0/{expected}"


def test_accuracies_after_each_task_are_those_of_the_matrices() -> None:
    several = reduce([pd.DataFrame(made())])
    last = dict(logged.learning(several))[3]
    R = several.matrices["MAS-IMM"]
    assert last["MAS-IMM/accuracy_so_far"] == pytest.approx((R[2, 0] + R[2, 1] + R[2, 2]) / 3)
    assert last["MAS-IMM/accuracy_on/2"] == pytest.approx(R[2, 1])
    assert "Joint/accuracy_so_far" in last
    assert not any(name.startswith("Joint") for tasks, of in logged.learning(several) if tasks < 3 for name in of)
    named = dict(logged.learning(replace(several, tasks={"digits": ("x", "y/z", "w")})))[1]
    names = ("accuracy_so_far", "accuracy_on/x")
    assert set(named) == {f"{row}/{name}" for row in ("MAS-RACL", "MAS-IMM") for name in names}


def test_tables_without_lines_are_left_out(results: Results) -> None:
    several = logged.tables(reduce([pd.DataFrame(made())]), pd.DataFrame(COSTS))
    assert set(several) == {"rows", "users", "accuracy_matrix", "ledger", "costs"}
    assert list(several["ledger"].columns[:4]) == ["data", "model", "ledger", "line"]
    assert set(logged.tables(results[0], pd.DataFrame())) == {"rows", "users", "accuracy_matrix"}, "one row, no costs"


def test_csv_has_a_file_for_each_training_and_one_for_the_results(
    results: Results, merits: dict[str, float], tmp_path: Path
) -> None:
    log("csv", tmp_path, results)
    for training, task in TRAININGS:
        curve = pd.read_csv(tmp_path / "csv" / "version_0" / training / task / "metrics.csv")
        assert curve.dropna(subset="val_accuracy")["val_accuracy"].to_list() == list(ACCURACIES)
        assert curve.dropna(subset="train_loss")["epoch"].to_list() == [0, 1, 2, 3]
    (line,) = pd.read_csv(tmp_path / "csv" / "version_0" / "metrics.csv").to_dict("records")
    assert line == pytest.approx({**merits, "step": 0})
    assert "digits" in (tmp_path / "csv" / "version_0" / "hparams.yaml").read_text()


def test_another_run_in_the_same_folder_leaves_the_first_ones_files(results: Results, tmp_path: Path) -> None:
    for _ in range(2):
        log("csv", tmp_path, results)
    assert len(list(tmp_path.rglob("metrics.csv"))) == 2 * 4


def test_tensorboard_has_a_folder_for_each_training_and_the_results_as_pictures_text_and_hyperparameters(
    results: Results, merits: dict[str, float], tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder: Path) -> Any:
        found = accumulator.EventAccumulator(str(folder))
        found.Reload()
        return found

    log("tensorboard", tmp_path, results)
    folder = tmp_path / "tensorboard" / "version_0"
    for training, task in TRAININGS:
        curve = read(folder / training / task)
        assert [event.value for event in curve.Scalars("val_accuracy")] == list(ACCURACIES)
    found = read(folder)
    assert set(found.Tags()["images"]) == {"accuracy", "matrices"}
    (text,) = found.Tensors("rows/text_summary")
    assert f"| MAS-RACL | {merits['average_accuracy']:.2f} |" in text.tensor_proto.string_val[0].decode()
    so_far = [(event.step, event.value) for event in found.Scalars("accuracy_so_far")]
    assert so_far == [(n, pytest.approx(values["accuracy_so_far"])) for n, values in logged.learning(results[0])]
    assert found.Scalars("average_accuracy")[0].value == pytest.approx(merits["average_accuracy"])
    assert "_hparams_/session_start_info" in found.summary_metadata


def wandb_file(folder: Path) -> list[Any]:
    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return wandb_records(path)


def test_wandb_has_curves_tables_figures_and_a_summary(
    results: Results, merits: dict[str, float], tmp_path: Path
) -> None:
    log("wandb", tmp_path, results)
    found = wandb_file(tmp_path)
    histories = [r.history for r in found if r.WhichOneof("record_type") == "history"]
    values: dict[str, list[str]] = {}
    for history in histories:
        for item in history.item:
            values.setdefault(item.key or "/".join(item.nested_key), []).append(item.value_json)
    for training, task in TRAININGS:
        curve = values[f"{training}/{task}/val_accuracy"]
        assert [json.loads(value) for value in curve] == list(ACCURACIES)
    steps = {r.metric.glob_name: r.metric.step_metric for r in found if r.WhichOneof("record_type") == "metric"}
    assert steps["L2-transfer/a/*"] == "epoch"
    assert [json.loads(value) for value in values["epoch"]][:4] == [0, 0, 1, 1]
    after = list(logged.learning(results[0]))
    assert [json.loads(value) for value in values["tasks_learnt"]] == [tasks for tasks, _ in after] == [1, 2, 3]
    on_first = [json.loads(value) for value in values["accuracy_on/1"]]
    assert on_first == pytest.approx([of["accuracy_on/1"] for _, of in after])
    summary = {i.key: i.value_json for r in found if r.WhichOneof("record_type") == "summary" for i in r.summary.update}
    for name, value in merits.items():
        assert json.loads(summary[name]) == pytest.approx(value)
    (media,) = (tmp_path / "wandb").glob("offline-run-*/files/media")
    lines = {
        path.name.rpartition("_")[0].rpartition("_")[0]: len(json.loads(path.read_text())["data"])
        for path in (media / "table").glob("*.table.json")
    }
    assert lines == {"records": 72, "rows": 1, "users": 12, "accuracy_matrix": 6, "costs": 1}
    assert {path.name.partition("_")[0] for path in (media / "images").rglob("*.png")} == {"accuracy", "matrices"}


@pytest.mark.parametrize("error", ENDS, ids=str)
def test_a_wandb_run_that_did_not_end_well_is_marked_as_failed(error: BaseException | None, tmp_path: Path) -> None:
    end(lambda: start("wandb", tmp_path), error)
    (last,) = [record.exit for record in wandb_file(tmp_path) if record.WhichOneof("record_type") == "exit"]
    assert last.exit_code == (error is not None)


def end(make: Callable[[], RunLogger], error: BaseException | None) -> None:
    run = make()
    with suppress(ValueError, Stopped):
        try:
            if error is not None:
                raise error
        finally:
            loggers.close(run)


@pytest.mark.parametrize(
    ("row", "tags"),
    [
        ("LwF", ["LwF", "digits", "mlp", "paper", "none", "mine"]),
        ("table", ["table", "digits", "mlp", "paper", "mine"]),
    ],
)
def test_wandb_runs_are_told_apart_by_group_job_type_and_tags(row: str, tags: list[str], tmp_path: Path) -> None:
    loggers.close(start("wandb", tmp_path, row, tags=["mine"]))
    found = wandb_file(tmp_path)
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.run_group, run.job_type, run.display_name) == ("study", row, f"{row}, seed 2")
    assert sorted(run.tags) == sorted(tags)
    configs = [
        *run.config.update,
        *(i for r in found if r.WhichOneof("record_type") == "config" for i in r.config.update),
    ]
    assert "seed" in {item.key for item in configs}


@pytest.mark.parametrize("error", ENDS, ids=str)
def test_mlflow_has_curves_tables_figures_and_how_the_run_ended(
    error: BaseException | None,
    results: Results,
    merits: dict[str, float],
    tmp_path: Path,
) -> None:
    if error is None:
        run = log("mlflow", tmp_path, results)
    else:
        end(lambda: start("mlflow", tmp_path), error)
    tracking = pytest.importorskip("mlflow.tracking")
    client = tracking.MlflowClient(f"file:{tmp_path / 'mlruns'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "study"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == ("FINISHED" if error is None else "FAILED")
    assert (found.info.run_name, found.data.tags["row"], found.data.params["data/name"]) == (
        "LwF, seed 2",
        "LwF",
        "digits",
    )
    if error is not None:
        return
    assert isinstance(run.logger, MLFlowLogger)
    for training, task in TRAININGS:
        curve = client.get_metric_history(run.logger.run_id, f"{training}/{task}/val_accuracy")
        assert [metric.value for metric in curve] == list(ACCURACIES)
    for name, value in merits.items():
        assert found.data.metrics[name] == pytest.approx(value)
    kept = {artifact.path for artifact in client.list_artifacts(run.logger.run_id)}
    tables = {f"{name}.json" for name in ("rows", "users", "accuracy_matrix", "costs")}
    assert kept == {"records.csv", "accuracy.png", "matrices.png"} | tables
    so_far = client.get_metric_history(run.logger.run_id, "accuracy_so_far")
    assert {point.step: point.value for point in so_far} == pytest.approx(
        {tasks: values["accuracy_so_far"] for tasks, values in logged.learning(results[0])}
    )


def test_the_end_of_a_training_does_not_end_the_run(tmp_path: Path) -> None:
    run = start("mlflow", tmp_path)
    logger = loggers.curves(run, 1, "LwF", "a")
    assert isinstance(logger, Logger)
    fit_with(logger, "a")
    assert isinstance(run.logger, MLFlowLogger)
    assert run.logger.experiment.get_run(run.logger.run_id).info.status == "RUNNING"
    loggers.close(run)
    assert run.logger.experiment.get_run(run.logger.run_id).info.status == "FINISHED"


def test_mlflow_is_a_database_in_the_runs_folder_unless_a_server_is_named(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    loggers.close(loggers.start(MLFlowLogger, {}, tmp_path, CONFIG, "LwF"))
    assert (tmp_path / "mlflow.db").exists()


def test_names_for_folders_have_only_characters_that_folders_can_have() -> None:
    seed, training, task = curves.place(1, "L2-transfer, lr=0.1", "a/b:c*")
    assert (seed, training) == ("seed_1", "L2-transfer, lr=0.1")
    assert re.fullmatch(r"a_b_c_-\w{8}", task)


@settings(deadline=None)
@given(st.lists(st.text(), min_size=2, max_size=6, unique=True))
def test_curves_of_two_trainings_never_share_a_folder(names: list[str]) -> None:
    places = [curves.place(1, name, name)[2] for name in names]
    assert len(set(places)) == len(names)
    assert all(len(place.encode()) <= 255 and not set("/\\:*?[]\n\0") & set(place) for place in places)


@pytest.mark.parametrize("kind", ["wandb", "tensorboard", "mlflow"])
def test_a_package_that_is_missing_is_one_line_with_what_installs_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**_: Any) -> Logger:
        raise ModuleNotFoundError(f"Module not found: {kind!r}. HINT: Try running `pip install -U {kind!r}`")

    missing.__name__ = KINDS[kind].__name__
    with pytest.raises(InputError, match=rf"pip install 'dua_lightning\[{kind}\]'"):
        loggers.start(missing, {}, tmp_path, CONFIG, "LwF")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an argument that does not exist": ("csv", {"flush": 3}, "flush"),
    "a name that no folder can have": ("csv", {"name": "x" * 300}, "too long"),
    "a null character": ("tensorboard", {"name": "a\0b"}, "null"),
    "a mode that does not exist": ("wandb", {"mode": "x"}, "mode=x .*offline"),
    "a project that W&B does not take": ("wandb", {"project": "a/b:c", "mode": "offline"}, "project"),
    "a setting of W&B's that does not exist": ("wandb", {"settings": {"x": 1}, "mode": "offline"}, "settings|Settings"),
    "an empty tag": ("wandb", {"tags": [""]}, "1 to 64"),
    "a long tag": ("wandb", {"tags": ["a", "x" * 65]}, "xxx.*1 to 64|1 to 64.*xxx"),
    "tags without values": ("mlflow", {"tags": ["a"]}, "mapping"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_a_logger_cannot_use_are_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    kind, settings, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as refused:
        start(kind, tmp_path, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("row", ["", "r" * 200])
def test_a_label_of_any_length_is_a_tag_that_wandb_takes(row: str, tmp_path: Path) -> None:
    run = start("wandb", tmp_path, row, tags="mine")
    loggers.close(run)
    assert run is not None
    assert (run.settings["job_type"], len(run.settings["name"])) == (row[:64], min(128, len(f"{row}, seed 2")))
    assert run.settings["tags"] == [*filter(None, [row[:64]]), "digits", "mlp", "paper", "none", "mine"]


@pytest.mark.parametrize(
    ("variable", "mode", "expected"),
    [
        (None, "offline", "offline"),
        (None, "disabled", None),
        ("", "offline", "offline"),
        ("disabled", "online", None),
        ("dryrun", "online", "dryrun"),
        ("offline", "disabled", "offline"),
    ],
)
def test_wandb_mode_of_the_environment_wins(
    variable: str | None, mode: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    run = start("wandb", tmp_path, mode=mode)
    loggers.close(run)
    assert (None if run is None else run.settings["mode"]) == expected
    assert bool(list(tmp_path.glob("wandb/offline-run-*"))) == (expected is not None)


def test_a_variable_that_is_no_mode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.raises(InputError, match="WANDB_MODE=nonsense"):
        start("wandb", tmp_path)
    loggers.close(start("csv", tmp_path))


SERVICES: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "nobody has logged in": (("logger=wandb", "logger.mode=online"), {}, "No API key"),
    "the variable asks for a login": (("logger=wandb",), {"WANDB_MODE": "online"}, "logger.mode=offline"),
    "no server of W&B's": (
        ("logger=wandb", "logger.mode=online", "logger.settings.init_timeout=1"),
        {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
        "127.0.0.1:9",
    ),
    "no server of MLflow's": (("logger=mlflow", "logger.tracking_uri=http://127.0.0.1:9"), {}, "127.0.0.1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SERVICES)
def test_a_service_that_cannot_be_used_is_one_line_within_seconds(case: str, tmp_path: Path) -> None:
    words, variables, named = SERVICES[case]
    if "logger=mlflow" in words:
        pytest.importorskip("mlflow")
    began = time.monotonic()
    more = {"WANDB_MODE": "", "HOME": str(tmp_path), **variables}
    done = spawn(*TINY, *words, f"paths.output_dir={tmp_path / 'out'}", cwd=tmp_path, more=more)
    assert refused(done), done.err
    assert named in done.err
    assert time.monotonic() - began < 60
    assert not (tmp_path / "out" / "figures").exists(), "something was computed"


def test_a_home_that_cannot_be_written_to_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
    for name in variables:
        # The test leaves them as they were.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    loggers.close(start("wandb", tmp_path))
    assert {os.environ[name] for name in variables} == {str(tmp_path / "wandb")}
    assert not (tmp_path / "nowhere").exists()


class Gone(Logger):
    """A service that is there at the start, and gone from the first metric of a training on."""

    def __init__(self, save_dir: str, error: str) -> None:
        super().__init__()
        self.save_dir_ = save_dir
        self.error = error
        self.calls = 0

    name, version, experiment = "gone", 0, None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.calls += 1
        raise ConnectionError(self.error)


def test_a_service_that_goes_away_takes_nothing_with_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    logger = (f"logger._target_={__name__}.Gone", "~logger.name", "+logger.error=nobody there")
    done = run(*TINY, *logger, f"paths.output_dir={out}", capfd=capfd, monkeypatch=monkeypatch)
    assert refused(Done(done.status, done.out, done.err.splitlines()[-1])), done.err
    assert len(done.err.splitlines()) == 2, done.err
    assert done.err.count("nobody there") == 2
    assert "MAS-RACL" in done.out
    written = ("records.csv", "summary.json", "trainings.csv", "figures/matrices.png")
    assert all((out / name).exists() for name in written)


def test_a_service_that_has_failed_is_not_asked_again(results: Results, tmp_path: Path) -> None:
    started = loggers.start(Gone, {"error": "nobody there"}, tmp_path, CONFIG, "LwF")
    logger = loggers.curves(started, 1, "LwF", "a")
    assert isinstance(logger, Logger)
    fit_with(logger, "a")
    loggers.results(started, *results)
    assert started is not None
    assert isinstance(started.logger, Gone)
    assert started.logger.calls == 1
    with pytest.raises(InputError, match="Gone could not log everything"):
        loggers.close(started)


def test_the_sweeps_agents_start_runs_that_exist_and_log_its_metric() -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    sweep = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
    assert sweep["command"][-1] == "${args_no_hyphens}"
    assert sweep["metric"]["name"] == "average_accuracy"
    chosen = {name: {"value": parameter["values"][-1]} for name, parameter in sweep["parameters"].items()}
    arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    command, overrides = sweep["command"][:3], [*sweep["command"][3:-1], *arguments]
    assert shlex.join(command) == "python -m dua_lightning"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    assert (cfg.method.name, cfg.importance.name, cfg.seed) == ("imm", "fim", 3)
    assert (cfg.logger.project, cfg.logger.mode) == (sweep["project"], "online")
