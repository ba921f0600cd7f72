"""The personal models of a finished run, computed again from the experts that the store keeps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dua_lightning.adapt import Unchanged
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.personal.model import PersonalModel
from dua_lightning.personal.network import portable
from dua_lightning.progress import stage
from dua_lightning.run.draws import Draws, joined
from dua_lightning.run.finished import again, environment, read
from dua_lightning.run.rows import Row, rows
from dua_lightning.run.settings import SeedSettings
from dua_lightning.store.tensorfile import Tensors
from dua_lightning.tasks import UserModel


@dataclass(frozen=True)
class Final:
    """The end of one user of a run: the states of the row, as they are evaluated after the last task.

    Args:
        draws: The rows of the seed, with the network and the benchmark.
        row: The row.
        data: The user's data in the halves of the draw, with a task for every picture.
        states: The state that serves each task, by the task's name, on the run's device.
    """

    draws: Draws
    row: Row
    data: UserData
    states: dict[str, State]


def personal_models(
    run: str | Path,
    user: str | Sequence[str] | None = None,
    row: str | None = None,
    seed: int | None = None,
    draw: int = 1,
) -> Iterator[PersonalModel]:
    """Give the final model of each user of a run: psi, chi, statistics and phi once more, without a training.

    They are the models whose accuracies after the last task the run recorded, for the draw of each user's halves that
    is asked for. The store must have the experts and the results, which vouch for code and pictures.

    Args:
        run: The folder of the run.
        user: The name of a user, or several; by default all.
        row: The label of a row; a run with a single row needs none.
        seed: The seed; by default the run's first.
        draw: The Monte-Carlo iteration, from 1.

    Yields:
        The models in the order of the run's users, but for users who lack the labels that the row needs; one at a time
        is in memory.

    Raises:
        InputError: There is no such run, row, seed, draw or user, or the store lacks what the run has put there.
    """
    for final in finals(run, user, row, seed, draw):
        yield _model(final, Path(run))


def finals(
    run: str | Path,
    user: str | Sequence[str] | None = None,
    row: str | None = None,
    seed: int | None = None,
    draw: int = 1,
) -> Iterator[Final]:
    """Give the final states of each user of a run; arguments and errors are those of `personal_models`.

    Args:
        run: The folder of the run.
        user: The name of a user, or several.
        row: The label of a row.
        seed: The seed.
        draw: The Monte-Carlo iteration.

    Yields:
        The users' ends, one at a time.

    Raises:
        InputError: See `personal_models`.
    """
    folder = Path(run)
    draws, chosen = prepared(folder, row, seed)
    if not 1 <= draw <= draws.benchmark.iterations:
        raise InputError(f"draw={draw} cannot be used: the run has the draws 1 to {draws.benchmark.iterations}")
    wanted = None if user is None else [user] if isinstance(user, str) else [*user]
    users = draws.benchmark.users
    if wanted is not None:
        names = [someone.user for someone in users]
        if unknown := [name for name in wanted if name not in names]:
            some = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise InputError(f"the run has no user {unknown[0]}; it has {some}")
    shared: dict[str, Tensors] = {}
    for someone in users:
        taken = draws.takes(chosen, someone)
        if wanted is not None and someone.user in wanted and not taken:
            raise InputError(f"{chosen.label} needs labels, and user {someone.user} has none; name another row")
        if taken and (wanted is None or someone.user in wanted):
            with stage(f"making the model of user {someone.user}"):
                final = _final(draws, chosen, someone.draw(draw), folder, shared)
            yield final


def prepared(folder: Path, row: str | None = None, seed: int | None = None) -> tuple[Draws, Row]:
    """Make the rows of a finished run anew, with its benchmark and network.

    Args:
        folder: The run's folder.
        row: The label of a row; a run with a single row needs none.
        seed: The seed; by default the run's first.

    Returns:
        The rows of the seed, and the one that was asked for.

    Raises:
        InputError: There is no such run, row or seed.
    """
    settings = _of_seed(read(folder), seed)
    label = _row(rows(settings), row).label
    with stage("loading the data"):
        draws = Draws(settings)
    return draws, _row(draws.rows, label)


def _of_seed(found: Sequence[SeedSettings], seed: int | None) -> SeedSettings:
    for settings in found:
        if seed in (None, settings.seed):
            return settings
    raise InputError(f"the run has no seed {seed}; it has {', '.join(str(settings.seed) for settings in found)}")


def _row(found: Sequence[Row], label: str | None) -> Row:
    if label is None and len(found) == 1:
        return found[0]
    for row in found:
        if row.label == label:
            return row
    named = ", ".join(f'"{row.label}"' for row in found)
    if label is None:
        raise InputError(f"the run has {len(found)} rows; name one of them as its row: {named}")
    raise InputError(f'the run has no row "{label}"; it has {named}')


def _final(draws: Draws, row: Row, data: UserData, folder: Path, shared: dict[str, Tensors]) -> Final:
    """The end of one user; `shared` keeps what users have in common."""
    if draws.store.get(draws.recipes.result(row, data)) is None:
        raise InputError(
            f"the store has no result of {row.label} for user {data.user} that this code makes of these pictures and "
            f"these first weights; {again(folder)}"
        )
    if not shared:
        shared.update(shared_tensors(draws, row, folder))
    states, data = draws.personal(row, data, shared)
    return Final(draws, row, data, states)


def _model(final: Final, folder: Path) -> PersonalModel:
    row, data, benchmark, settings = final.row, final.data, final.draws.benchmark, final.draws.settings
    used = row.prior == "user" or type(row.phi) is not Unchanged
    pictures = {task.name: len(data.of(task).validation) if used else 0 for task in benchmark.tasks}
    return PersonalModel(
        user=data.user,
        row=row.label,
        tasks=benchmark.tasks,
        categories=benchmark.categories,
        shape=tuple(benchmark.shape),
        net=final.draws.net,
        states=on_processor(final.states),
        preprocessing=benchmark.preprocessing,
        network=portable(settings.model.node),
        seed=settings.seed,
        settings=row.settings,
        provenance={
            "run": folder.absolute().name,
            **environment(folder),
            "draw": data.iteration,
            "pictures": pictures,
        },
    )


def shared_tensors(draws: Draws, row: Row, folder: Path) -> dict[str, Tensors]:
    """Read what the users of a run have in common: the row's experts and, where it has them, the server's priors.

    Args:
        draws: The rows of the seed.
        row: The row.
        folder: The run's folder, for messages.

    Returns:
        The tensors by the keys of their recipes.

    Raises:
        InputError: The store has no longer the experts.
    """
    found: dict[str, Tensors] = {}
    for recipe in draws.recipes.experts(row):
        expert = draws.store.get(recipe)
        if expert is None:
            raise InputError(f"the store {draws.store.root} has no longer the experts of {row.label}; {again(folder)}")
        found[recipe.key] = expert
    if row.prior == "server":
        recipe = draws.recipes.priors(row, None)
        experts = joined(draws.benchmark.tasks, list(found.values()))
        found[recipe.key] = draws.server_priors(row, experts, keep=draws.store.path(recipe).exists())
    return found


def on_processor(states: UserModel) -> dict[str, State]:
    """Bring the states of a model to the processor; tensors that they share are copied there once.

    Args:
        states: The states by the task's name.

    Returns:
        The states there.
    """
    moved: dict[int, Any] = {id(tensor): tensor.cpu() for state in states.values() for tensor in state.values()}
    return {task: {name: moved[id(tensor)] for name, tensor in state.items()} for task, state in states.items()}
