"""Refusal of adapted tensors that are not finite, with the cause."""

from collections.abc import Iterable

from dua_lightning.errors import DivergedError, InputError
from dua_lightning.params import State, not_finite
from dua_lightning.tasks import Batch


def require_finite(found: State, given: State, data: Iterable[Batch], doing: str, lr: float | None = None) -> None:
    """Refuse an adaptation that has made NaN or infinities, which would be counted as an accuracy of chance.

    A tensor that was not finite before may stay so: nothing may have been computed from the entries in question, such
    as another task's columns of the head. The cause is looked for only where there is something to refuse.

    Args:
        found: The tensors that the adaptation has computed.
        given: The tensors that it has computed them from.
        data: The batches that it has computed them from.
        doing: The name of the adaptation and of the task, for the message.
        lr: The learning rate, where steps were taken.

    Raises:
        InputError: A tensor of `found` has become NaN or infinite, and the images or the given tensors hold such
            numbers, or no step was taken.
        DivergedError: It has, and nothing but the steps can be the cause.
    """
    wrong = not_finite(found)
    if not wrong:
        return
    before = not_finite(given)
    made = [name for name in wrong if name not in before]
    if not made:
        return
    text = f"{doing} has made NaN or infinity of {made[0]}"
    if not all(bool(x.isfinite().all()) for x, _ in data):
        raise InputError(f"{text}, since an image holds such numbers; look at the images")
    if before:
        raise InputError(f"{text}, since {before[0]} of the given model holds such numbers; look at its training")
    if lr is None:
        raise InputError(f"{text}, since the network's numbers have become too large; look at the model's training")
    raise DivergedError(f"{text}: it diverged with lr={lr}; lower the learning rate")
