"""The rows of the table: each is a combination of the verbs, as objects, and has a name in tables."""

from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any

from torch import nn

from dua_lightning.adapt import Adapt, Unchanged
from dua_lightning.adapt.base import OfExpert, OfExperts, OfServer, asks
from dua_lightning.errors import InputError
from dua_lightning.importance import Importance
from dua_lightning.merge import LastStatistics, MeanStatistics, Merge, Mode, Statistics, TaskStatistics
from dua_lightning.privacy.encrypted import Encrypted
from dua_lightning.privacy.release import Plain, Release, WhileMeasuring
from dua_lightning.run.build import Choice
from dua_lightning.run.settings import WHERE, AdaptAfter, Measurer, RowSettings, SeedSettings, TaskOrder, Where

if TYPE_CHECKING:
    from dua_lightning.regularise import Regulariser

PRIORS: dict[Measurer, str] = {
    "user": "user's priors",
    "server": "server's priors",
    "other": "another user's priors",
    "oracle": "oracle's priors of the scored images",
}
"""The names of priors in labels, by the one who measures them."""
PLACES: dict[Where, str] = {"device": "merged on the device", "encrypted": "merged under encryption"}
"""The names of the places of a merge in labels; the server has none."""
OF_EXPERTS = (LastStatistics, MeanStatistics, TaskStatistics)
"""Steps after the merge that need nothing but the experts, so that a device can take them."""


@dataclass(frozen=True)
class Row:
    """One row: a combination of regularise, importance, merge, statistics and adapt.

    Args:
        method: The method's name for the records.
        importance: The importance's name for the records; `none` where the merge needs no prior.
        adapt: The adaptation's name for the records.
        label: The row's name in tables.
        training_label: The name of the training of its experts, which several rows may share.
        training: Whether experts are trained one after another or jointly.
        last_alone: Whether it is evaluated after the last task alone, so that its forgetting is not known.
        regularise: The choice of its regulariser.
        prior: Who measures the prior.
        psi: The importance that is measured; `None` where the merge needs no prior.
        training_data_too: Whether a server measures on its training data as well.
        chi: The merge.
        statistics: The step after the merge; `None` where the merge needs none.
        statistics_name: The name of that step for the records; `none` where the merge needs none.
        phi: The adaptation.
        settings: The plain values that the objects were built of; `None` for those that are not there.
        release: The step between the user's own prior and the wire; `None` where it is sent as it is, or none is sent.
        release_name: The name of that step for the records.
        clipped: Whether `psi` is another one than is asked for, since the release needs it so.
        where: The place of the merge.
    """

    method: str
    importance: str
    adapt: str
    label: str
    training_label: str
    training: TaskOrder
    last_alone: bool
    regularise: Choice
    prior: Measurer
    psi: Importance | None
    training_data_too: bool
    chi: Merge
    statistics: Statistics | None
    statistics_name: str
    phi: Adapt
    settings: dict[str, Any]
    release: Release | None = None
    release_name: str = "none"
    clipped: bool = False
    where: Where = "server"

    @cached_property
    def regulariser(self) -> "Regulariser":
        """The regulariser before the first task; Lightning, which takes seconds to load, is loaded for it."""
        from dua_lightning.regularise import Regulariser

        made: Regulariser = self.regularise.build(Regulariser)
        return made

    @property
    def needs_labels(self) -> bool:
        """Whether a user needs labels for it, so that it leaves out those who have none."""
        by_users = self.prior in ("user", "other")
        return self.phi.needs_labels or (by_users and self.psi is not None and self.psi.needs_labels)

    @property
    def sends_experts(self) -> bool:
        """Whether a user's device is sent the experts: it measures priors on them, or its adaptation needs them."""
        return self.prior not in ("server", "none") or any(asks(self.phi, kind) for kind in (OfExpert, OfExperts))

    @property
    def uses(self) -> str:
        """Name what it uses of a user's own: `nothing`, `images`, or `labels` for images with their labels.

        It is `others` where another user measures the prior, and `oracle` where that reads the images that are scored,
        whatever else the row uses: such rows stand neither for what a server nor for what a user can do.
        """
        if self.prior in ("other", "oracle"):
            return "oracle" if self.prior == "oracle" else "others"
        if self.needs_labels:
            return "labels"
        return "nothing" if self.prior != "user" and type(self.phi) is Unchanged else "images"

    def check(self, net: nn.Module | None, labelled: bool) -> None:
        """Check that the row can be computed.

        Args:
            net: The network; `None` where it is not known yet.
            labelled: Whether some user's data have labels.

        Raises:
            InputError: The network cannot be adapted so, labels are needed that are not there, or a package is missing.
        """
        try:
            if net is not None:
                self.phi.check(net)
        except InputError as error:
            raise InputError(f"adapt={self.adapt} cannot be used: {error}") from error
        release: object = self.release
        if isinstance(release, WhileMeasuring):
            try:
                release.check()
            except InputError as error:
                raise InputError(f"release={self.release_name} cannot be used: {error}") from error
        if isinstance(self.chi, Encrypted):
            try:
                self.chi.check()
            except InputError as error:
                raise InputError(f"merge.where=encrypted cannot be used: {error}") from error
        if labelled or not self.needs_labels:
            return
        why = "and no user has them all, or data.users_labelled=false"
        if self.phi.needs_labels:
            raise InputError(f"adapt={self.adapt} trains on users' labels, {why}; use adapt=adabn or adapt=none")
        raise InputError(
            f"{self.label} measures importance={self.importance} on users' labels, {why}; use importance=mas, or "
            "importance=fim importance.labels=sampled"
        )


def rows(settings: SeedSettings) -> list[Row]:
    """Build the rows of one seed, each once: choices that a merge does not need may make two of them the same.

    Args:
        settings: The seed's settings.

    Returns:
        The rows in their order.

    Raises:
        InputError: For settings that cannot be used, and for rows that differ and have one name.
    """
    found: dict[str, Row] = {}
    for of_row in settings.rows:
        row = make(of_row, settings.fidelity.imm_data == "train_and_validation", settings.adapt_after)
        same = found.setdefault(row.label, row)
        if same.settings != row.settings or (same.prior, same.training) != (row.prior, row.training):
            raise InputError(
                f"two rows of the method are called {row.label} and differ in their settings; run them one by one, or "
                "give one of them a method with another label"
            )
    return list(found.values())


def make(settings: RowSettings, training_data_too: bool = False, adapt_after: AdaptAfter = "each_task") -> Row:
    """Build a row.

    Args:
        settings: The row's choices.
        training_data_too: Whether a server measures priors on its training data as well.
        adapt_after: When a row that adapts is adapted and evaluated.

    Returns:
        The row.

    Raises:
        InputError: For settings that cannot be used, and for a merge that needs priors which nobody measures.
    """
    chi: Merge = settings.merge.build(Merge)
    if chi.needs_prior and settings.prior == "none":
        raise InputError(
            f"merge={settings.merge.name} needs priors, and with prior=none nobody measures them; give prior=user or "
            "prior=server, or choose a merge that needs none"
        )
    prior = settings.prior if chi.needs_prior else "none"
    psi = settings.importance.build(Importance) if chi.needs_prior else None
    release = settings.release.build(Release) if prior == "user" else Plain()
    measured = psi if psi is None else _measured(psi, release, settings)
    statistics = None if chi.keeps_statistics else settings.statistics.build(Statistics)
    phi: Adapt = settings.adapt.build(Adapt)
    if settings.where != "server":
        _check_place(settings, chi, prior, release, statistics, phi)
    return Row(
        method=settings.method.name,
        importance="none" if psi is None else settings.importance.name,
        adapt=settings.adapt.name,
        label=_label(settings, chi),
        training_label="Joint" if settings.training == "joint" else settings.regularise.label,
        training=settings.training,
        last_alone=settings.training == "joint"
        or isinstance(phi, OfExperts)
        or (adapt_after == "last_task" and type(phi) is not Unchanged),
        regularise=settings.regularise,
        prior=prior,
        psi=measured,
        training_data_too=training_data_too,
        chi=Encrypted(chi.zero_importance) if settings.where == "encrypted" and isinstance(chi, Mode) else chi,
        statistics=statistics,
        statistics_name="none" if statistics is None else settings.statistics.name,
        phi=phi,
        settings={
            "regulariser": settings.regularise.plain(),
            "psi": None if psi is None else settings.importance.plain(),
            "chi": settings.merge.plain() | ({} if settings.where == "server" else {WHERE: settings.where}),
            "statistics": None if statistics is None else settings.statistics.plain(),
            "phi": settings.adapt.plain(),
            "release": None if type(release) is Plain else settings.release.plain(),
        },
        release=None if type(release) is Plain else release,
        release_name="none" if type(release) is Plain else settings.release.name,
        clipped=measured is not psi,
        where=settings.where,
    )


def _check_place(
    settings: RowSettings,
    chi: Merge,
    prior: Measurer,
    release: Release,
    statistics: Statistics | None,
    phi: Adapt,
) -> None:
    """Refuse a merge elsewhere than on the server where that keeps nothing from the server, or cannot be computed."""
    refused = f"merge.{WHERE}={settings.where} cannot be used with"
    if prior != "user":
        raise InputError(
            f"{refused} {f'prior={prior}' if chi.needs_prior else f'merge={settings.merge.name}'}, which reads nothing "
            f"of the user's own; use method=racl, or merge.{WHERE}=server"
        )
    if settings.where == "encrypted" and type(chi) is not Mode:
        raise InputError(
            f"{refused} merge={settings.merge.name}, which is no sum of products with what is sent; use merge=mode, or "
            f"merge.{WHERE}=device"
        )
    if type(release) is not Plain:
        raise InputError(
            f"{refused} release={settings.release.name}, since the server reads no prior; use release=none, or "
            f"merge.{WHERE}=server"
        )
    if not isinstance(statistics, (*OF_EXPERTS, NoneType)):
        raise InputError(
            f"{refused} statistics={settings.statistics.name}, which takes the merged model to the server's pictures; "
            f"use statistics=last, mean or task, or merge.{WHERE}=server"
        )
    if asks(phi, OfServer):
        raise InputError(
            f"{refused} adapt={settings.adapt.name}, for which the server measures on the merged model; use "
            f"adapt=adabn, or merge.{WHERE}=server"
        )


def _measured(psi: Importance, release: Release, settings: RowSettings) -> Importance:
    """The importance that is measured for a release."""
    try:
        return release.measured(psi) if isinstance(release, WhileMeasuring) else psi
    except InputError as error:
        raise InputError(
            f"release={settings.release.name} cannot be used with importance={settings.importance.name}: {error}"
        ) from error


def _label(settings: RowSettings, chi: Merge) -> str:
    """The method's label where all choices are its own; otherwise followed by every one that is not.

    Choices that the merge does not need are not named.
    """
    own, importance = settings.method, settings.importance
    label = f"{importance.label}-{own.label}" if chi.needs_prior and own.importance is None else own.label
    if settings.training != own.training:
        label += f", {settings.training} training"
    if settings.regularise.name != own.regularise:
        label += f", {settings.regularise.label} training"
    if chi.needs_prior:
        if own.importance not in (None, importance.name):
            label += f", {importance.label}"
        if settings.prior != own.prior:
            label += f", {PRIORS[settings.prior]}"
        if settings.prior == "user" and settings.release.name != "none":
            label += f", {settings.release.label}"
    if settings.merge.name != own.merge:
        label += f", {settings.merge.label} merge"
    if settings.where in PLACES:
        label += f", {PLACES[settings.where]}"
    if not chi.keeps_statistics and settings.statistics.name != own.statistics:
        label += f", {settings.statistics.label} statistics"
    if settings.adapt.name != own.adapt:
        label += f" + {settings.adapt.label}"
    return label
