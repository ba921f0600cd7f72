"""A personal model of a finished run is the one that the run evaluated, on picture files and from every format."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dua_lightning import PersonalModel, load, personal_models, save
from dua_lightning.adapt import AdaBN
from dua_lightning.errors import InputError
from dua_lightning.importance import MAS
from dua_lightning.merge import LastStatistics, Mode
from dua_lightning.personal import parity
from dua_lightning.report.records import read
from dua_lightning.run import finished
from dua_lightning.run.draws import Draws
from dua_lightning.tasks import Expert
from tests.personal import runs

ROWS = {
    "user's priors": ("method=racl", "adapt=adabn", *runs.OWN),
    "server's priors": ("method=imm",),
    "each expert, trained": ("method=task_experts",),
    "each expert": ("method=mean_imm", "merge=each", "adapt=adabn", *runs.OWN),
    "joint": ("method=joint", "adapt=adabn_s", *runs.OWN),
    "the expert's statistics": ("method=mean_imm", "statistics=task", *runs.OWN),
    "the release": ("method=racl", "adapt=adabn_s_released", *runs.OWN),
    "mobilenet_v2": ("method=mean_imm", "model=mobilenet_v2", "model.weights=none"),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_model_read_back_scores_what_the_run_recorded_to_the_last_picture(tmp_path: Path, row: str) -> None:
    run = runs.run(tmp_path, *ROWS[row])
    found = scores(run, tmp_path, draw=2)
    records = read(run / "records.csv").query("iteration == 2 and after == 2")
    expected = {(of.user, of.on): of.accuracy for of in records.itertuples()}
    assert len(expected) == 4
    assert found == expected


def scores(run: Path, folder: Path, draw: int) -> dict[tuple[str, int], float]:
    """The accuracy of each user and task, of the files of the user's evaluation half."""
    files = sorted((folder / "pictures").rglob("*.jpg"))
    (settings,) = finished.read(run)
    data = {user.user: user.draw(draw) for user in Draws(settings).benchmark.users}
    found = {}
    for made in personal_models(run, draw=draw):
        model = load(save(made, folder / "models", ("safetensors",)), code=("tests",))
        assert model.user == made.user
        for on, task in enumerate(model.tasks, 1):
            half = data[made.user].of(task).evaluation
            paths = [files[source] for source in half.sources.tolist()]
            best = model.probabilities(task.name, model.preprocessing(paths)).argmax(1)
            right = [model.classes(task.name)[k] == path.parent.name for k, path in zip(best, paths, strict=True)]
            found[made.user, on] = 100 * sum(right) / len(right)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rows and two seeds."""
    folder = tmp_path_factory.mktemp("out")
    two = "method.rows=[{method: mean_imm}, {method: racl, importance: mas, adapt: adabn}]"
    runs.run(folder, "method=all", two, "seed=[1,2]", *runs.OWN)
    return folder


def one(folder: Path, row: str = "MAS-RACL + AdaBN", **asked: object) -> PersonalModel:
    (model,) = personal_models(folder / "run", user="ann", row=row, **asked)
    return model


def test_the_states_are_psi_chi_and_phi_of_the_stored_experts(folder: Path) -> None:
    settings, _ = finished.read(folder / "run")
    draws = Draws(settings)
    row = next(row for row in draws.rows if row.label == "MAS-RACL + AdaBN")
    data = next(user for user in draws.benchmark.users if user.user == "ann").draw(1)
    recipes = zip(draws.benchmark.tasks, draws.recipes.experts(row), strict=True)
    experts = [Expert(task, draws.store.get(recipe)) for task, recipe in recipes]
    priors = [MAS()(draws.net, expert, data.of(expert.task).validation_batches()) for expert in experts]
    merged = LastStatistics()(draws.net, experts, Mode()(experts, priors, draws.start), draws.benchmark.server)
    model = one(folder)
    for task in draws.benchmark.tasks:
        expected = AdaBN()(draws.net, merged[task.name], task, data.of(task).adaptation_batches())
        found = model.states[task.name]
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert not all(torch.equal(found[name], draws.start[name]) for name, _ in draws.net.named_parameters())


def test_the_formats_give_the_same_logits(folder: Path) -> None:
    model = one(folder)
    x = model.preprocessing(sorted((folder / "pictures/users/ann").rglob("*.jpg")))
    written = save(model, folder / "pt2", ("safetensors", "pt2"))
    for task in ("garden", "kitchen"):
        expected = model.module(task)(x)
        assert expected.shape == (len(x), 2)
        torch.testing.assert_close(expected.softmax(1), model.probabilities(task, x))
        torch.testing.assert_close(load(written, code=("tests",)).module(task)(x), expected)
        program = torch.export.load(written / f"{task}.pt2").module()
        for n in (1, 2, len(x)):
            torch.testing.assert_close(program(x[:n]), expected[:n], rtol=0, atol=1e-4)


def test_onnx_gives_the_same_logits_for_batches_of_any_size(folder: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = one(folder)
    x = model.preprocessing(sorted((folder / "pictures/users/ann").rglob("*.jpg")))
    session = runtime.InferenceSession(save(model, folder / "onnx", ("onnx",)) / "garden.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    for n in (1, 2, len(x)):
        (logits,) = session.run(None, {"input": x[:n].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model.module("garden")(x[:n]), rtol=0, atol=1e-4)


def test_the_first_seed_is_taken_unless_another_is_named(folder: Path) -> None:
    assert [one(folder).seed, one(folder, seed=2).seed] == [1, 2]
    assert one(folder).provenance["pictures"] == {"garden": 2, "kitchen": 2}
    assert one(folder, row="mean-IMM").provenance["pictures"] == {"garden": 0, "kitchen": 0}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"row": None}, 'the run has 2 rows; name one of them as its row: "mean-IMM", "MAS-RACL [+] AdaBN"'),
        ({"row": "EWC"}, 'the run has no row "EWC"; it has "mean-IMM"'),
        ({"seed": 3}, "the run has no seed 3; it has 1, 2"),
        ({"draw": 3}, "draw=3 cannot be used: the run has the draws 1 to 2"),
        ({"user": ["ann", "eve"]}, "the run has no user eve; it has ann, bob"),
    ],
)
def test_what_the_run_has_not_is_refused(folder: Path, asked: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        next(personal_models(folder / "run", **{"row": "mean-IMM", **asked}))


def test_a_folder_of_something_else_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"is not the folder of a run that has settings\.json; name a run"):
        next(personal_models(folder / "pictures"))
    with pytest.raises(InputError, match=r"is the folder of a sweep; name one of its runs in it: .*run"):
        next(personal_models(folder))


def test_pictures_and_experts_that_are_not_those_of_the_run_are_refused(tmp_path: Path) -> None:
    run = runs.run(tmp_path, "method=mean_imm")
    again = "run again, in the same working folder: dua data=own_users .*method=mean_imm"
    for expert in (tmp_path / "store/experts").iterdir():
        expert.unlink()
    with pytest.raises(InputError, match=f"has no longer the experts of mean-IMM; {again}"):
        next(personal_models(run))
    (tmp_path / "pictures/users/bob/garden/grass/new.jpg").write_bytes(
        (tmp_path / "pictures/users/ann/garden/grass/0.jpg").read_bytes()
    )
    with pytest.raises(
        InputError, match=f"no result of mean-IMM for user bob that .* these pictures and these first weights; {again}"
    ):
        next(personal_models(run, user="bob"))


def test_settings_come_back_as_they_were(folder: Path) -> None:
    found = finished.read(folder / "run")
    finished.write(found, folder / "copy")
    assert finished.read(folder / "copy") == found


def test_a_file_that_computes_something_else_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="the logits of the file and of the network differ by 0"):
        save(one(folder), folder / "other", ("pt2",))
    assert list((folder / "other").iterdir()) == []


def test_a_network_that_cannot_be_traced_is_refused_in_one_line(folder: Path) -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = replace(one(folder), net=Branches(), states={"garden": {}, "kitchen": {}})
    with pytest.raises(InputError, match=r"^this Branches cannot be written as pt2 \(.*\); leave pt2 out of the form"):
        save(model, folder / "branches", ("pt2",))


def test_executorch_gives_the_same_logits(folder: Path) -> None:
    pytest.importorskip("executorch")
    from executorch.runtime import Runtime

    model = one(folder)
    x = model.preprocessing(sorted((folder / "pictures/users/ann").rglob("*.jpg")))
    x = torch.cat([x, x.flip(3), x + 1])
    written = save(model, folder / "pte", ("pte",))
    assert sorted(path.suffix for path in written.iterdir()) == [".json", ".pte", ".pte", ".safetensors"]
    method = Runtime.get().load_program(written / "garden.pte").load_method("forward")
    for n in (1, 2, 20, 32):
        expected = model.module("garden")(x[:n])
        torch.testing.assert_close(method.execute([x[:n]])[0], expected, rtol=0, atol=1e-4)
