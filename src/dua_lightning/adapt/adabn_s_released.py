"""The adaptation that the authors' released code evaluates under the name of AdaBN-S."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torch import nn

from dua_lightning.adapt.adabn_s import TunesBatchNorm
from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norm_affine, loaded, reset_batch_norms
from dua_lightning.tasks import Batch, Expert, Task


@dataclass(frozen=True)
class AdaBNSReleased(TunesBatchNorm):
    """Tune gamma and beta on the task's unmerged expert, and give them to the merged model, whose statistics stay.

    The release starts from the expert with its batch-norm layers reset, trains gamma and beta under each batch's own
    statistics, and copies them alone to the model that it tests. Do not use it as a method; it is here to be compared
    with `AdaBNS`. It departs from the release for Joint, where that tunes one gamma and beta on all tasks' data
    together.

    Args:
        expert: The full state of the task's unmerged expert, which `of` gives. The other arguments are those of
            `TunesBatchNorm`.

    Raises:
        InputError: There is no expert, or `TunesBatchNorm` raises it.
    """

    expert: State | None = field(default=None, repr=False)

    def of(self, expert: Expert) -> "AdaBNSReleased":
        """Make the adaptation that tunes on an expert.

        Args:
            expert: The task's unmerged expert.

        Returns:
            The adaptation with that expert.
        """
        return replace(self, expert=expert.state)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        if self.expert is None:
            raise InputError(f"the released AdaBN-S tunes the expert of task {task.name}, and was given none; use of()")
        tuned = loaded(net, self.expert)
        reset_batch_norms(tuned)
        self.tune(tuned, self.expert, task, data)
        found = tuned.state_dict()
        return {**state, **{name: found[name].clone() for name in batch_norm_affine(net)}}
