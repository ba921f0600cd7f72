"""The server's part, without any transport: what each user is sent, and what becomes of the answers.

It keeps a folder for each user. A user's priors are checked and merged once for each plan; an answer that comes a
second time changes nothing, and a server that was killed goes on where it was.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from dua_lightning.adapt.base import OfExperts, OfServer, asks
from dua_lightning.errors import InputError
from dua_lightning.federation.device import EXPERTS, MODEL, Plan
from dua_lightning.federation.parcel import Parcel
from dua_lightning.personal import files
from dua_lightning.personal.finished import on_processor, prepared, shared_tensors
from dua_lightning.personal.model import PersonalModel
from dua_lightning.personal.network import portable
from dua_lightning.privacy.message import TIMES, largest, load_priors
from dua_lightning.run.build import targets
from dua_lightning.run.draws import joined, unnamed
from dua_lightning.run.finished import environment
from dua_lightning.run.settings import WHERE
from dua_lightning.store.files import file_sha256, write_text
from dua_lightning.store.store import digest
from dua_lightning.tasks import Expert, UserModel

SQUARES = 100.0
"""The factor of `privacy.message.largest` for the FIM, whose numbers are squares."""
TRIES = 3
"""So many times a device may fail before it is left alone until it comes again."""

Stage = Literal["new", "merged", "finished", "refused"]
"""The word for how far a user is."""


@dataclass(frozen=True)
class Progress:
    """The progress of a user.

    Args:
        plan: The digest of the plan that it is about.
        stage: `new`, `merged` where the personal model lies ready, `finished` where the device has adapted it, or
            `refused`.
        reason: The reason why the priors were refused, until the device has been told.
        lacks: Whether the device needs the experts, as far as the server knows.
        told: Whether the device knows that it is finished.
        failed: The number of times that the device could not do what it was asked for.
        up: The bytes of the files that the device has sent.
        down: The bytes of the files that it was sent.
    """

    plan: str
    stage: Stage = "new"
    reason: str = ""
    lacks: bool = False
    told: bool = False
    failed: int = 0
    up: int = 0
    down: int = 0


_PROGRESS = TypeAdapter(Progress)


class Server:
    """The server's part for one row of a finished run.

    Args:
        run: The folder of the run.
        state: The folder that it keeps everything in.
        row: The label of the row; a run with a single row needs none.
        seed: The seed; by default the run's first.
        draw: The draw of users' halves, from 1.
        times: The factor by which a user's prior may be larger than the server's own; see `privacy.message.largest`.
        say: A function that is given a line for each thing that is done.

    Raises:
        InputError: The run cannot be read, the store has no longer its experts, or no device can do its part of the
            row.
    """

    def __init__(
        self,
        run: Path,
        state: Path,
        row: str | None = None,
        seed: int | None = None,
        draw: int = 1,
        times: float | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.run = run
        self.state = state
        self.say = say
        self.draws, self.row = prepared(run, row, seed)
        self._check(draw)
        self.shared = shared_tensors(self.draws, self.row, run)
        row_experts = [self.shared[recipe.key] for recipe in self.draws.recipes.experts(self.row)]
        experts = joined(self.draws.benchmark.tasks, row_experts)
        states = {expert.task.name: expert.state for expert in experts}
        folder = files.save(self._model("experts", states, draw), state, files.FORMATS[:1])
        self._sent_experts = {name: folder / file for name, file in EXPERTS.items()}
        # The device names an expert by the digest of what it reads from the file.
        read = files.load(folder, self._own_code())
        self.experts = [Expert(task, read.states[task.name]) for task in read.tasks]
        settings = self.draws.settings
        user = self.draws.known_users[0]
        self.plan = Plan(
            row=self.row.label,
            settings=self.row.settings,
            prior=self.row.prior,
            importance=self.row.importance,
            seed=settings.seed,
            draw=draw,
            batch_size=user.batch_size,
            labelled=bool(settings.data.node.get("users_labelled", True)),
            experts=file_sha256(folder / files.ABOUT),
        )
        self._plan = digest(self.plan.model_dump())
        # A device that measures or merges needs the experts, and has them with the first message; others ask for them.
        self._begun = Progress(self._plan, lacks=self.row.prior == "user" or self.row.where == "device")
        self._progress: dict[str, Progress] = {}
        self.bounds = self._bounds(times) if self.row.prior == "user" and self.row.where == "server" else []

    def progress(self, name: str) -> Progress:
        """Tell how far a user is with this server's plan.

        Args:
            name: The user's name.

        Returns:
            The progress; of another plan nothing is left.
        """
        if name not in self._progress:
            path = self._folder(name) / "progress.json"
            try:
                found = _PROGRESS.validate_json(path.read_bytes())
            except FileNotFoundError:
                found = self._begun
            except (OSError, ValidationError) as error:
                raise InputError(f"{path} cannot be used ({error}); remove it to begin anew with this user") from error
            self._progress[name] = found if found.plan == self._plan else self._begun
        return self._progress[name]

    def request(self, name: str) -> Parcel | None:
        """Give what a user's device is to do next.

        Args:
            name: The user's name.

        Returns:
            The message; `None` where there is nothing to do.

        Raises:
            InputError: The model of this user cannot be made.
        """
        at = self.progress(name)
        if at.stage == "refused" and at.reason:
            # It is told once; whoever comes again may try again.
            self._keep(name, changed(at, reason=""))
            return Parcel({"verb": "refuse", "reason": at.reason}, {})
        if at.stage == "finished" and not at.told:
            # A device stays until its answer has arrived.
            self._keep(name, changed(at, told=True))
            return Parcel({"verb": "done"}, {})
        if at.stage in ("finished", "refused") or at.failed >= TRIES:
            return None
        if at.stage == "new" and self.row.prior != "user":
            at = self._merge(name, at, [])
        alone = self.row.where == "device"
        verb, sent = "merge" if alone else "measure", self._sent_experts if at.lacks else {}
        if at.stage == "merged":
            folder = self._folder(name) / "merged" / files.name(name)
            verb, sent = "adapt", {**sent, **{part: folder / file for part, file in MODEL.items()}}
        parcel = Parcel({"verb": verb, "plan": self.plan.model_dump()}, sent)
        self._keep(name, changed(at, lacks=False, down=at.down + parcel.size))
        return parcel

    def receive(self, name: str, parcel: Parcel, key: str | None) -> None:
        """Take what a user's device has answered. A second answer of the same kind changes nothing.

        Args:
            name: The user's name, which the transport vouches for.
            parcel: The answer.
            key: The public key of the user's priors in hexadecimal; `None` takes unsigned ones.
        """
        at = self.progress(name)
        if parcel.verb == "lacks":
            self._keep(name, changed(at, lacks=True))
        elif parcel.verb == "priors" and at.stage == "new" and self.row.where == "server":
            try:
                self._merge(name, changed(at, up=at.up + parcel.size), self._priors(name, parcel, key))
            except InputError as error:
                # The device need not know where the server keeps files.
                reason = str(error)
                for folder in {path.parent for path in parcel.files.values()}:
                    reason = reason.replace(f"{folder}/", "")
                self.say(f"{name}: {reason}")
                self._keep(name, changed(at, stage="refused", reason=reason, up=at.up + parcel.size))
        elif parcel.verb == "finished" and at.stage == ("new" if self.row.where == "device" else "merged"):
            self._keep(name, changed(at, stage="finished", failed=0))
            self.say(f"{name}: has its model ({at.up:,} bytes up, {at.down:,} down)")
        elif parcel.verb == "failed":
            self.say(f"{name}: the device has failed; its own words tell why")
            self.failed(name)

    def failed(self, name: str) -> None:
        """Note that something went wrong with a user; after a few times the device is left alone until it comes again.

        Args:
            name: The user's name.
        """
        at = self.progress(name)
        self._keep(name, changed(at, failed=at.failed + 1))

    def came(self, name: str) -> None:
        """Note that a user's device has come, for the first time or again: what went wrong before is forgotten.

        Args:
            name: The user's name.
        """
        at = self.progress(name)
        if at.stage == "refused" or at.failed or at.told:
            stage: Stage = "new" if at.stage == "refused" else at.stage
            self._keep(name, changed(at, stage=stage, reason="", failed=0, told=False))

    def _check(self, draw: int) -> None:
        """Raises `InputError` for a row that no device can do its part of."""
        row, benchmark = self.row, self.draws.benchmark
        if benchmark.preprocessing is None:
            raise InputError(f"the inputs of {self.run} do not come from picture files, and devices have pictures")
        if not 1 <= draw <= benchmark.iterations:
            raise InputError(f"draw={draw} cannot be used: the run has the draws 1 to {benchmark.iterations}")
        if row.prior not in ("user", "server", "none"):
            raise InputError(f"{row.label} takes {row.prior} priors, and no device has them; name another row")
        if row.where == "encrypted":
            raise InputError(
                f"{row.label} is computed in simulations alone; run with merge.{WHERE}=device, which sends nothing at "
                "all of the pictures, and name that row"
            )
        if asks(row.phi, OfExperts) or asks(row.phi, OfServer):
            raise InputError(
                f"{row.label} adapts by {row.adapt}, which asks for more than devices are sent; name a row with "
                "adapt=adabn or another that takes the user's pictures alone"
            )

    def _bounds(self, times: float | None) -> list[dict[str, float]]:
        """The largest norms for each expert; the server's own priors are measured for them once."""
        factor = times if times is not None else SQUARES if self.row.importance == "fim" else TIMES
        path = self.state / "bounds.json"
        wanted = {"plan": self._plan, "times": factor}
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if {key: found.get(key) for key in wanted} == wanted:
                bounds: list[dict[str, float]] = found["bounds"]
                return bounds
        own = unnamed(self.draws.server_priors(self.row, tuple(self.experts), keep=False))
        for expert, prior in zip(self.experts, own, strict=True):
            wrong = [name for name, omega in prior.items() if expert.state.get(name, omega[:0]).shape != omega.shape]
            if wrong:
                raise InputError(
                    f"{self.row.label} measures importance={self.row.importance}, whose {wrong[0]} is no number for "
                    "each weight; name a row with importance=mas or importance=fim"
                )
        bounds = [largest(prior, factor) for prior in own]
        write_text(path, json.dumps({**wanted, "bounds": bounds}))
        return bounds

    def _priors(self, name: str, parcel: Parcel, key: str | None) -> list[dict[str, Any]]:
        """The priors of a message, checked."""
        trusted = None if key is None else {name: key}
        found = load_priors([*parcel.files.values()], self.experts, self.bounds, trusted=trusted)
        sender = found[0].about.sender
        if sender != name:
            raise InputError(f"the priors are from {sender!r}, and {name!r} has sent them")
        return [message.prior for message in found]

    def _merge(self, name: str, at: Progress, priors: Sequence[Mapping[str, Any]]) -> Progress:
        """Make the personal model and keep it."""
        model = self.draws.merged(self.row, [dict(prior) for prior in priors], self.shared)
        out = self._folder(name) / "merged"
        shutil.rmtree(out, ignore_errors=True)
        files.save(self._model(name, model, self.plan.draw), out, files.FORMATS[:1])
        at = changed(at, stage="merged")
        self._keep(name, at)
        self.say(f"{name}: merged {len(self.experts)} experts into its model")
        return at

    def _model(self, name: str, states: UserModel, draw: int) -> PersonalModel:
        benchmark, settings = self.draws.benchmark, self.draws.settings
        return PersonalModel(
            user=name,
            row=self.row.label,
            tasks=benchmark.tasks,
            categories=benchmark.categories,
            shape=tuple(benchmark.shape),
            net=self.draws.net,
            states=on_processor(states),
            preprocessing=benchmark.preprocessing,
            network=portable(settings.model.node),
            seed=settings.seed,
            settings=self.row.settings,
            provenance={"run": self.run.absolute().name, **environment(self.run), "draw": draw},
        )

    def _own_code(self) -> list[str]:
        """The packages that the run's own settings name."""
        named = targets([dict(self.draws.settings.model.node), self.row.settings["phi"]])
        return sorted({target.partition(".")[0] for target in named})

    def _folder(self, name: str) -> Path:
        return self.state / "users" / files.name(name)

    def _keep(self, name: str, at: Progress) -> None:
        self._progress[name] = at
        write_text(self._folder(name) / "progress.json", json.dumps(asdict(at)) + "\n")
