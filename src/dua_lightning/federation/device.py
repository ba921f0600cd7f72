"""The device's part, without any transport: it measures, receives its model and adapts, and keeps what it has.

Nothing but the message files of `privacy.message` leaves it. What it has done stays in its folder, so that a device
that was killed goes on, and one that is asked twice answers the same.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import nn

from dua_lightning import importance, merge, user
from dua_lightning.adapt import Adapt, Unchanged
from dua_lightning.adapt.base import OfExpert, asks
from dua_lightning.data import own_users
from dua_lightning.data.folder import of_device
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.federation.parcel import Parcel
from dua_lightning.importance import Importance
from dua_lightning.importance.averaged import Level
from dua_lightning.merge import Merge, Statistics
from dua_lightning.personal import files
from dua_lightning.personal.model import PersonalModel
from dua_lightning.personal.network import refuse_foreign
from dua_lightning.privacy import release
from dua_lightning.privacy.message import save_prior
from dua_lightning.privacy.release import Release, WhileMeasuring, send
from dua_lightning.run.build import build, targets
from dua_lightning.run.settings import without_where
from dua_lightning.store.files import file_sha256, replacing
from dua_lightning.store.store import digest
from dua_lightning.tasks import Expert, Prior

OURS = {f"{room.__name__}.{name}" for room in (importance, merge, release) for name in room.__all__}
"""The importances, merges and releases of this package, which a server may ask for."""
LEVELS: tuple[Level, ...] = ("expert", "layer", "channel", "weight")
"""Levels of a message, the smallest message first."""
MODEL = {files.ABOUT: files.ABOUT, files.WEIGHTS: files.WEIGHTS}
"""The files of the personal model by their names in a message."""
EXPERTS = {"experts.json": files.ABOUT, "experts.safetensors": files.WEIGHTS}
"""The files of the experts by their names in a message."""


class Plan(BaseModel, extra="forbid"):
    """A row as the server describes it to a device, the same for all its users.

    Args:
        row: The row's label.
        settings: The settings of its verbs.
        prior: The one who measures the prior: `user`, `server` or `none`.
        importance: The name of psi.
        seed: The run's seed.
        draw: The draw of the user's halves.
        batch_size: Images of a batch in which phi takes a step.
        labelled: Whether labels of the user-validation images may be seen.
        experts: The digest of the experts that the prior is measured on.
    """

    row: str
    settings: dict[str, Any]
    prior: str
    importance: str
    seed: int
    draw: int
    batch_size: int
    labelled: bool
    experts: str


class Device:
    """One user's device.

    Args:
        state: The folder that it keeps everything in.
        images: The folder of the user's pictures.
        name: The user's name.
        key: The file of the private key that signs the priors.
        code: The names of packages besides this one whose functions may be called, for networks of one's own.
        say: A function that is given a line for each thing that is done.
    """

    def __init__(
        self,
        state: Path,
        images: Path,
        name: str,
        key: Path,
        code: Sequence[str] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.state = state
        self.images = images
        self.name = name
        self.key = key
        self.code = code
        self.say = say
        self.finished: Path | None = None
        self.refused: str | None = None
        self.done = False

    def answer(self, parcel: Parcel) -> Parcel:
        """Do what the server asks for.

        Args:
            parcel: The server's message.

        Returns:
            The device's answer: the priors, a request for the experts, that the model is finished, or that it failed.
            Why it failed stays on the device, since it may name pictures. After `done` or `refuse` nothing more is
            wanted of it, and nobody waits for its answer.
        """
        try:
            return self._answer(parcel)
        except InputError as error:
            self.refused = str(error)
            return Parcel({"verb": "failed"}, {})

    def _answer(self, parcel: Parcel) -> Parcel:
        if parcel.verb == "done":
            self.done = True
            return Parcel({"verb": "done"}, {})
        if parcel.verb == "refuse":
            self.done = True
            self.refused = f"the server has refused the priors: {parcel.about.get('reason', '')}"
            return Parcel({"verb": "sorry"}, {})
        try:
            plan = Plan.model_validate(parcel.about.get("plan"))
        except ValidationError as error:
            raise InputError(f"the server's message cannot be used ({error.errors()[0]['msg']})") from error
        if parcel.verb == "measure":
            return self._measure(plan, self._experts(plan, parcel))
        if parcel.verb == "merge":
            return self._merge(plan, self._experts(plan, parcel))
        if parcel.verb == "adapt":
            return self._adapt(plan, parcel)
        raise InputError(f"the server asks for {parcel.verb!r}, which this device cannot do; install the same version")

    def _experts(self, plan: Plan, parcel: Parcel) -> PersonalModel | None:
        """The experts that the plan names, if this device has got them."""
        folder = self.state / "experts"
        if EXPERTS.keys() <= parcel.files.keys():
            _keep(EXPERTS, parcel, folder)
        if not (folder / files.ABOUT).is_file() or file_sha256(folder / files.ABOUT) != plan.experts:
            return None
        return files.load(folder, self.code)

    def _measure(self, plan: Plan, model: PersonalModel | None) -> Parcel:
        if model is None:
            return Parcel({"verb": "lacks", "experts": plan.experts}, {})
        experts = [Expert(task, model.states[task.name]) for task in model.tasks]
        data = self._data(plan, model, experts)
        of = digest({"plan": plan.model_dump(), "data": data.recipe()})
        folder = self.state / "priors" / of
        paths = {f"{files.name(task.name)}.safetensors": folder for task in model.tasks}
        if not all((place / name).is_file() for name, place in paths.items()):
            shutil.rmtree(self.state / "priors", ignore_errors=True)
            psi, released = self._psi(plan)
            self.say(f"measuring {plan.importance} on {len(data.validation)} pictures")
            images = [len(data.of(task).validation) for task in model.tasks]
            priors = user.measure(psi, model.net, experts, data)
            if released is not None:
                priors, _ = send(released, priors, images, plan.seed, data.user, data.iteration)
            for name, expert, prior, count in zip(paths, experts, priors, images, strict=True):
                self._save(folder / name, prior, expert, plan, count)
        self.say(f"sending {len(paths)} priors")
        found = {name: place / name for name, place in paths.items()}
        return Parcel({"verb": "priors", "experts": plan.experts}, found)

    def _save(self, path: Path, prior: Prior, expert: Expert, plan: Plan, images: int) -> None:
        """Write the message with a prior, at the coarsest level that loses nothing."""
        for level in LEVELS:
            try:
                save_prior(
                    path,
                    prior,
                    expert,
                    importance=plan.importance,
                    images=images,
                    level=level,
                    settings=plan.settings["psi"],
                    release=plan.settings["release"],
                    sender=self.name,
                    key=self.key,
                )
                return
            except InputError:
                if level == LEVELS[-1]:
                    raise

    def _merge(self, plan: Plan, model: PersonalModel | None) -> Parcel:
        """Measure, merge and adapt: the server is told nothing of the pictures."""
        if model is None:
            return Parcel({"verb": "lacks", "experts": plan.experts}, {})
        self._refuse_foreign(plan.settings["chi"], plan.settings["statistics"])
        experts = [Expert(task, model.states[task.name]) for task in model.tasks]
        data = self._data(plan, model, experts)
        psi, _ = self._psi(plan)
        self.say(f"measuring {plan.importance} on {len(data.validation)} pictures, and merging {len(experts)} experts")
        priors = user.measure(psi, model.net, experts, data)
        chi: Merge = build(without_where(plan.settings["chi"]), "merge", Merge)
        # No merge of this package that takes a user's prior reads the start of the training.
        states = chi(experts, priors, {})
        if plan.settings["statistics"] is not None:
            step: Statistics = build(plan.settings["statistics"], "statistics", Statistics)
            # Those that a device can take read no data of the server's.
            states = step(model.net, experts, states, [])
        phi: Adapt = build(model.settings["phi"], "adapt", Adapt)
        return self._finish(plan, replace(model, user=self.name, states=dict(states)), experts, data, phi)

    def _adapt(self, plan: Plan, parcel: Parcel) -> Parcel:
        folder = self.state / "merged"
        if not MODEL.keys() <= parcel.files.keys():
            raise InputError("the server has sent no model; install the same version on both sides")
        _keep(MODEL, parcel, folder)
        merged = files.load(folder, self.code)
        phi: Adapt = build(merged.settings["phi"], "adapt", Adapt)
        experts = self._experts(plan, parcel) if asks(phi, OfExpert) or self._unsorted(plan, merged) else merged
        if experts is None:
            return Parcel({"verb": "lacks", "experts": plan.experts}, {})
        of_tasks = [Expert(task, experts.states[task.name]) for task in merged.tasks]
        return self._finish(plan, merged, of_tasks, self._data(plan, merged, of_tasks), phi)

    def _finish(
        self, plan: Plan, merged: PersonalModel, experts: Sequence[Expert], data: UserData, phi: Adapt
    ) -> Parcel:
        """Adapt the merged model and keep it."""
        of = {expert.task.name: expert for expert in experts}
        self.say(f"adapting the model by {plan.settings['phi']['_target_'].rpartition('.')[2]}")
        net: nn.Module = merged.net
        states = {
            task.name: user.personalise(net, of[task.name], merged.states[task.name], phi, data)[0]
            for task in merged.tasks
        }
        used = plan.prior == "user" or type(phi) is not Unchanged
        pictures = {task.name: len(data.of(task).validation) if used else 0 for task in merged.tasks}
        model = replace(merged, states=states, provenance={**merged.provenance, "pictures": pictures})
        self.finished = files.save(model, self.state / "model", files.FORMATS[:1])
        self.say(f"the model is in {self.finished}")
        return Parcel({"verb": "finished"}, {})

    def _psi(self, plan: Plan) -> tuple[Importance, Release | None]:
        """The importance and the release that the plan names, of this package alone or of code that is allowed."""
        settings = [plan.settings["psi"], plan.settings["release"]]
        self._refuse_foreign(*settings)
        psi: Importance = build(settings[0], "importance", Importance)
        if settings[1] is None:
            return psi, None
        released: Release = build(settings[1], "release", Release)
        return released.measured(psi) if isinstance(released, WhileMeasuring) else psi, released

    def _refuse_foreign(self, *settings: Any) -> None:
        """Raises `InputError` for settings that name code of another package that is not allowed."""
        refuse_foreign([{"_target_": name} for name in sorted(targets([*settings]) - OURS)], self.code)

    def _unsorted(self, plan: Plan, model: PersonalModel) -> bool:
        return self._own(plan, model).unsorted is not None

    def _data(self, plan: Plan, model: PersonalModel, experts: Sequence[Expert]) -> UserData:
        """The user's data, with a task for every picture."""
        data = self._own(plan, model)
        if data.unsorted is None:
            return data
        return data.with_tasks(user.tasks_by_confidence(model.net, experts, data.unsorted_batches()))

    def _own(self, plan: Plan, model: PersonalModel) -> UserData:
        made = model.preprocessing
        if made is None:
            raise InputError("the server's model takes no picture files")
        pool = of_device(self.images, self.name, model.tasks, model.categories, made.size, self.state / "cache")
        if pool.preprocessing(made.crop) != made:
            raise InputError("the server's model takes pictures that are normalised in another way")
        return own_users.user(pool, 0, made.crop, plan.seed, plan.batch_size, plan.labelled).draw(plan.draw)


def _keep(names: Mapping[str, str], parcel: Parcel, folder: Path) -> None:
    """Put the files of a model into a folder; the description, which has the digests, comes last."""
    (folder / files.ABOUT).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: names[name] == files.ABOUT):
        with replacing(folder / names[name]) as temporary:
            shutil.copyfile(parcel.files[name], temporary)
