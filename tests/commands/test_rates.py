"""`dua rates`: ATP's rates, learnt on simulated users alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dua_lightning.adapt import ATP
from dua_lightning.adapt.atp import learn_rates
from dua_lightning.personal.finished import finals
from tests.helpers.cli import Done, refused, run
from tests.personal import runs

Dua = Callable[..., Done]
SIMULATED = ("method=mean_imm", *runs.OWN, "simulate=both", "simulate.count=2", "adapt=none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    runs.pictures(folder / "pictures", server=20)
    runs.run(folder, *SIMULATED)
    return folder


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dua:
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: run("rates", *map(str, arguments), capfd=capfd, monkeypatch=monkeypatch)


def test_the_rates_are_those_of_all_users_and_tasks(folder: Path, dua: Dua, tmp_path: Path) -> None:
    done = dua(folder / "run", "--rounds", 3, "--lr", 0.5, "--out", tmp_path)
    assert done.status == 0
    (path,) = tmp_path.glob("rates-*.safetensors")
    assert str(path) in done.out.replace("\n", "")
    ends = list(finals(folder / "run"))
    clients = [
        (end.states[task.name], task, list(end.data.of(task).val_dataloader()))
        for end in ends
        for task in end.draws.benchmark.tasks
    ]
    assert ATP(path)._known == learn_rates(ends[0].draws.net, clients, 3, 0.5)
    assert any(ATP(path)._known.values())
    assert runs.run(tmp_path, "method=mean_imm", *runs.OWN, "adapt=atp", f"adapt.rates={path}").is_dir()


def test_scored_users_are_not_seen(folder: Path, dua: Dua, tmp_path: Path) -> None:
    own = runs.run(tmp_path / "own", "method=mean_imm", *runs.OWN)
    runs.pictures(tmp_path / "adapted/pictures", server=20)
    adapted = runs.run(tmp_path / "adapted", *SIMULATED[:-1], "adapt=adabn")
    for run_, words in ((own, "simulate=both"), (adapted, "adapt=none"), (tmp_path / "nothing", "nothing")):
        done = dua(run_)
        assert refused(done), done.err
        assert words in done.err
    assert not [*tmp_path.rglob("rates-*")]
