"""The interface of every merge."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel

HEAD = "head."
"""The beginning of the names of the head's weights, whose columns belong to tasks."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""The buffers of batch-norm layers, by the last part of their names."""


@runtime_checkable
class Merge(Protocol):
    """chi(Psi, M) = M^: the server's experts and their priors become one personal model, without training.

    The batch-norm buffers of a merged model are those of each task's own expert; the step after the merge
    (`merge.statistics`) replaces them. The experts are never changed; a result may share tensors with them.

    Attributes:
        needs_prior: Whether the merge reads priors. Where it does not, none are measured.
        keeps_statistics: Whether the states of the result are whole models of their own, which the step after the
            merge leaves as they are.
    """

    @property
    def needs_prior(self) -> bool:
        """Whether the merge reads priors."""

    @property
    def keeps_statistics(self) -> bool:
        """Whether the step after the merge leaves the states as they are."""

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        """Merge the experts into one personal model.

        Args:
            experts: M_1 .. M_t in the order in which they were learnt.
            priors: One for each expert; empty for a merge that needs none.
            start: The full state from which the training of the first task started.

        Returns:
            A full state for each expert's task, by the task's name.

        Raises:
            InputError: If the merge cannot use priors like these; it names the prior and what it needs.
        """


def shared(state: State) -> list[str]:
    """The names of the weights that all tasks share, which are those that a merge is about.

    Args:
        state: A full state of a network.

    Returns:
        Every name but those of the head and of the running statistics, in the order of the state.
    """
    return [
        name
        for name, tensor in state.items()
        if not name.startswith(HEAD) and name.rpartition(".")[2] not in STATISTICS and tensor.is_floating_point()
    ]
