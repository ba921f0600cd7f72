"""The server: experts one after another, taken from the store where they are, and its own priors."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from dua_lightning import regularise
from dua_lightning import server as module
from dua_lightning.data.server import union
from dua_lightning.evaluation import accuracy
from dua_lightning.params import Params, State, clone
from dua_lightning.regularise import EWC, L2Transfer, LwF, NoRegulariser, Regulariser
from dua_lightning.server import measure, merge_prefixes, train_experts
from dua_lightning.store.store import Recipe, Store
from dua_lightning.tasks import Batch, Expert, Task
from dua_lightning.training import Fitted
from tests.helpers import tiny
from tests.helpers.training import training

RECIPES = tuple(Recipe("experts", {"name": name}) for name in ("first", "second", "third"))
TRAINING = training(lr=0.02)
METHODS = {"ewc": EWC(4.0), "mas": regularise.MAS(0.1), "l2": L2Transfer(0.1), "lwf": LwF()}


def train(root: Path, regulariser: Regulariser = NoRegulariser(), recipes: Sequence[Recipe] = RECIPES, count: int = 3):  # noqa: B008
    net = tiny.network()
    start = clone(tiny.network(seed=1).state_dict())
    data = tiny.benchmark().server[:count]
    return train_experts(net, start, data, regulariser, TRAINING, Store(root), recipes[:count]), net


def states(experts: Iterable[Expert]) -> list[State]:
    return [expert.state for expert in experts]


def all_same(a: Iterable[State], b: Iterable[State]) -> bool:
    return all(tiny.same(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, State]]:
    """The task of each fit, and the weights it started from."""
    seen: list[tuple[str, State]] = []
    really = module.fit

    def fit(net: nn.Module, data, *more: object) -> Fitted:
        seen.append((data.task.name, clone(net.state_dict())))
        return really(net, data, *more)

    monkeypatch.setattr(module, "fit", fit)
    return seen


def test_the_first_task_starts_where_told_and_each_later_one_from_the_expert_before(tmp_path: Path, fits):
    experts, net = train(tmp_path)
    assert [name for name, _ in fits] == ["a", "b", "c"]
    assert all_same([start for _, start in fits], [tiny.network(seed=1).state_dict(), *states(experts[:2])])
    assert [expert.task for expert in experts] == list(tiny.tasks())
    assert tiny.same(net.state_dict(), experts[-1].state)


def test_experts_are_different_and_know_their_task(tmp_path: Path):
    bench = tiny.benchmark(per_class=20)
    net = tiny.network()
    asked = training(max_epochs=8, lr=0.02)
    start = clone(net.state_dict())
    experts = train_experts(net, start, bench.server, NoRegulariser(), asked, Store(tmp_path), RECIPES)
    for a, b in itertools.combinations(experts, 2):
        assert not torch.equal(a.state["body.1.weight"], b.state["body.1.weight"])
    for expert, of_task in zip(experts, bench.server, strict=True):
        assert accuracy(net, expert.state, expert.task, of_task.val_dataloader()) > 90


class Journal(Regulariser):
    """A regulariser that writes down what it is asked; copies of it write into the same list."""

    def __init__(self, entries: list[tuple[object, ...]]) -> None:
        self.entries = entries
        self.learnt = 0

    def __deepcopy__(self, memo: object) -> "Journal":
        return Journal(self.entries)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.entries.append(("train", self.learnt))

    def consolidate(self, module: nn.Module, task: Task, data: Iterable[Batch]) -> None:
        of_task = {of_task.task.name: of_task.train.inputs() for of_task in tiny.benchmark().server}
        assert torch.equal(torch.cat([x for x, _ in data]), of_task[task.name])
        self.entries.append(("consolidate", task.name))
        self.weights = clone(module.net.state_dict())
        self.learnt += 1


def test_each_task_is_trained_by_the_regulariser_of_all_before_it(tmp_path: Path):
    entries: list[tuple[object, ...]] = []
    train(tmp_path, Journal(entries))
    assert entries == [("train", 0), ("consolidate", "a"), ("train", 1), ("consolidate", "b"), ("train", 2)]


def test_a_task_is_closed_with_the_weights_of_its_expert_and_the_given_regulariser_stays(tmp_path: Path, monkeypatch):
    closed = []
    really = EWC.consolidate

    def consolidate(self, module, task, data):
        closed.append(clone(module.net.state_dict()))
        really(self, module, task, data)

    monkeypatch.setattr(EWC, "consolidate", consolidate)
    regulariser = EWC(4.0)
    experts, _ = train(tmp_path, regulariser)
    assert all_same(closed, states(experts[:2]))
    assert (regulariser.learnt, regulariser.omega) == (0, {})


def test_each_expert_that_is_trained_is_handed_over_with_what_it_took(tmp_path: Path):
    for expected in (["a", "b", "c"], []):
        found: list[Fitted] = []
        net, data = tiny.network(), tiny.benchmark().server
        start = clone(tiny.network(seed=1).state_dict())
        train_experts(net, start, data, NoRegulariser(), TRAINING, Store(tmp_path), RECIPES, found.append)
        assert [fitted.expert.task.name for fitted in found] == expected
        assert all(fitted.epochs == 3 and 0 <= fitted.val_accuracy <= 100 for fitted in found)


class Killed(BaseException):
    """An exception that ends a process."""


class Kill(Callback):
    """Ends the third epoch of the second task; counts the epochs that begin."""

    def __init__(self, when: int = 5) -> None:
        self.when = when
        self.epochs = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs += 1
        if self.epochs > self.when:
            raise Killed


def test_a_training_that_was_killed_continues_from_its_last_epoch_to_the_same_bits(tmp_path: Path):
    start = tiny.network(seed=1).state_dict()

    def experts(root: Path, kill: Kill) -> tuple[Expert, ...]:
        asked, data = training(lr=0.02, watch=[kill]), tiny.benchmark().server
        return train_experts(tiny.network(), start, data, METHODS["ewc"], asked, Store(root), RECIPES)

    whole = experts(tmp_path / "whole", Kill(when=9))
    store = Store(tmp_path / "killed")
    with pytest.raises(Killed):
        experts(store.root, Kill())
    assert store.partial(RECIPES[1]).exists()
    again = Kill(when=9)
    assert all_same(states(experts(store.root, again)), states(whole))
    # Five of nine epochs were finished before.
    assert again.epochs == 4
    assert not any(store.partial(recipe).exists() for recipe in RECIPES)


def test_the_regulariser_measures_only_for_an_expert_that_is_really_trained(tmp_path: Path):
    train(tmp_path, Journal([]))
    entries: list[tuple[object, ...]] = []
    train(tmp_path, Journal(entries))
    assert entries == []
    Store(tmp_path).path(RECIPES[2]).unlink()
    train(tmp_path, Journal(entries))
    assert entries == [("consolidate", "a"), ("consolidate", "b"), ("train", 2)]


def test_found_experts_are_not_trained_again(tmp_path: Path, fits):
    first, _ = train(tmp_path, METHODS["ewc"])
    assert len(fits) == 3
    second, net = train(tmp_path, METHODS["ewc"])
    assert len(fits) == 3
    assert all_same(states(first), states(second))
    assert [expert.task for expert in second] == list(tiny.tasks())
    assert tiny.same(net.state_dict(), second[-1].state)


def test_experts_under_other_keys_are_not_taken(tmp_path: Path, fits):
    train(tmp_path)
    train(tmp_path, recipes=(RECIPES[0], *(Recipe("experts", {"name": f"another {i}"}) for i in range(2))))
    assert [name for name, _ in fits] == ["a", "b", "c", "b", "c"]


def test_an_expert_is_stored_as_soon_as_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, _ = train(tmp_path / "undisturbed")
    really = module.fit

    def fit(net: nn.Module, data, *more: object) -> Fitted:
        if data.task.name == "c":
            raise KeyboardInterrupt
        return really(net, data, *more)

    monkeypatch.setattr(module, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    found = [Store(tmp_path / "stopped").get(recipe) for recipe in RECIPES]
    assert found[2] is None
    assert all_same(found[:2], states(whole[:2]))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[State]]]:
    """For each method the store and the experts of a run without a break."""
    made = {}
    for method, regulariser in METHODS.items():
        root = tmp_path_factory.mktemp(method)
        made[method] = root, states(train(root, regulariser)[0])
    return made.__getitem__


@pytest.mark.parametrize("kept", [(), (0,), (0, 1), (0, 2), (1,), (0, 1, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_resuming_from_a_part_of_the_store_gives_the_bits_of_an_undisturbed_run(
    tmp_path: Path, fits, undisturbed, method: str, kept: tuple[int, ...]
):
    root, expected = undisturbed(method)
    for i in kept:
        path = Store(tmp_path).path(RECIPES[i])
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(Store(root).path(RECIPES[i]).read_bytes())
    experts, _ = train(tmp_path, METHODS[method])
    assert len(fits) == 3 - len(kept)
    assert all_same(states(experts), expected)


def test_methods_differ_from_the_second_task_on(undisturbed):
    runs = [undisturbed(method)[1] for method in METHODS]
    for a, b in itertools.combinations(runs, 2):
        assert tiny.same(a[0], b[0])
        assert not tiny.same(a[1], b[1])


def test_the_first_tasks_of_a_longer_run_are_those_of_a_shorter_one(tmp_path: Path, undisturbed):
    assert all_same(states(train(tmp_path, METHODS["ewc"], count=2)[0]), undisturbed("ewc")[1][:2])


def test_joint_is_one_model_of_all_classes_under_one_key(tmp_path: Path, fits):
    bench, store = tiny.benchmark(), Store(tmp_path)
    start = clone(tiny.network(seed=1).state_dict())
    for _ in range(2):
        (joint,) = train_experts(
            tiny.network(), start, [union(bench.server)], NoRegulariser(), TRAINING, store, RECIPES[:1]
        )
        assert [name for name, _ in fits] == ["joint"]
        assert joint.task.classes == slice(0, 6)
    assert [entry.key for entry in store.entries()] == [RECIPES[0].key]
    assert not torch.equal(joint.state["head.weight"], start["head.weight"])


@pytest.mark.parametrize("training_too", [False, True])
def test_priors_of_the_server_are_measured_on_the_validation_data_of_each_task_or_on_all(training_too: bool):
    bench = tiny.benchmark()
    experts = [Expert(task, tiny.network(seed=i).state_dict()) for i, task in enumerate(bench.tasks)]
    seen = []

    class Spy:
        needs_labels = True

        def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
            seen.append((expert, list(data)))
            return {"number": torch.tensor(len(seen))}

    more = {"training_too": True} if training_too else {}
    priors = measure(Spy(), tiny.network(), experts, bench.server, **more)
    assert [int(prior["number"]) for prior in priors] == [1, 2, 3]
    for (expert, batches), given, of_task in zip(seen, experts, bench.server, strict=True):
        assert expert is given
        sides = [of_task.train, of_task.validation] if training_too else [of_task.validation]
        assert torch.equal(torch.cat([x for x, _ in batches]), torch.cat([side.inputs() for side in sides]))
        assert torch.equal(torch.cat([y for _, y in batches]), torch.cat([side.labels for side in sides]))


@pytest.mark.parametrize("priors", [[{"w": torch.tensor(float(i))} for i in range(3)], []], ids=["priors", "none"])
def test_prefixes_are_merged_from_their_own_experts_and_priors_alone(priors: list[Params]):
    experts = [Expert(Task(name, slice(i, i + 1)), {}) for i, name in enumerate("abc")]
    models = [{"a": {}}, {"b": {}}, {"c": {}}]
    seen = []

    start = {"w": torch.zeros(())}

    def merge(some: Sequence[Expert], their: Sequence[Params], first: State) -> dict[str, State]:
        assert first is start
        seen.append((list(some), list(their)))
        return models[len(seen) - 1]

    assert list(merge_prefixes(merge, experts, priors, start)) == [(1, models[0]), (2, models[1]), (3, models[2])]
    assert seen == [(experts[:t], priors[:t]) for t in (1, 2, 3)]


def test_prefixes_are_merged_one_at_a_time():
    """A merged network can be large: the next is made when the last has been used."""
    experts = [Expert(Task(name, slice(0, 1)), {}) for name in "abc"]
    made = []
    prefixes = merge_prefixes(lambda some, *_: made.append(len(some)) or {}, experts, [], {})
    next(prefixes)
    assert made == [1]
