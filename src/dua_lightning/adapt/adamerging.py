"""AdaMerging: merging coefficients that are learnt on the device.

[Yang2024] E. Yang, Z. Wang, L. Shen, S. Liu, G. Guo, X. Wang, D. Tao. AdaMerging: Adaptive model merging for multi-task
learning. ICLR 2024.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.adapt.adabn import AtOnce, Moments, check_images_at_once, take_statistics
from dua_lightning.adapt.finetune import check_steps
from dua_lightning.adapt.finite import require_finite
from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norms, body_names, clone, device_of, inputs, loaded, task_logits
from dua_lightning.tasks import Batch, Expert, Task, refusing_batch


@dataclass(frozen=True)
class AdaMerging:
    """Learn the coefficients of a merge on unlabelled images; layer-wise AdaMerging of [Yang2024].

    Each weight of the body is theta = theta_0 + sum_t lambda_t (theta_t - theta_0), with a coefficient in [0, 1] for
    each expert and each tensor. They take steps of Adam on the mean entropy of the softmax over the task's classes, one
    for each batch; meanwhile batch-norm layers normalise by each batch's own statistics. At the end the layers take the
    statistics of all of the user's images, as `AdaBN` does. Of the given state the head is kept, and nothing else.

    It departs from the paper in two ways. Each task has coefficients of its own, since each has a state of its own;
    the paper's are learnt on all tasks together. And the experts of this package are trained one from another, so that
    they share most of their changes: coefficients of 0.3 each would add up to far more than any expert has.

    Args:
        steps: The number of steps; 500 in the authors' code. The images are gone through as often as it takes.
        lr: The learning rate of Adam; 1e-3 in the authors' code.
        initial: The coefficients at the start: 0.3 in the paper, or `None` for 1 / number of experts, which is their
            mean.
        images_at_once: The largest number of images in a pass for the statistics, as in `AdaBN`.
        statistics: The way in which the statistics are taken at the end, as in `AdaBN`.
        experts: All unmerged experts, which `with_experts` gives.
        start: The full state that the first of them was trained from, which it gives too.

    Raises:
        InputError: A number cannot be used, there are no experts, the data have no images, a batch is too small to be
            normalised, or `AdaBN` raises it.
    """

    steps: int = 500
    lr: float = 1e-3
    initial: float | None = None
    images_at_once: AtOnce = "auto"
    statistics: Moments = "exact"
    experts: tuple[Expert, ...] = field(default=(), repr=False)
    start: State | None = field(default=None, repr=False)
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"AdaMerging takes 0 or more steps, got {self.steps}")
        if self.initial is not None and not 0 <= self.initial <= 1:
            raise InputError(f"the initial coefficients of AdaMerging are in [0, 1], got {self.initial}")
        check_steps(self.lr, 0, "AdaMerging")
        check_images_at_once(self.images_at_once, "AdaMerging")

    def with_experts(self, experts: Sequence[Expert], start: State) -> "AdaMerging":
        """Make the adaptation that mixes some experts.

        Args:
            experts: All unmerged experts.
            start: The full state that the first of them was trained from.

        Returns:
            The adaptation with them.
        """
        return replace(self, experts=tuple(experts), start=start)

    def check(self, net: nn.Module) -> None:
        if not body_names(net):
            raise InputError(
                f"AdaMerging mixes the weights outside the head, and this {type(net).__name__} has none; use "
                "AdaBN or no adaptation"
            )

    def trainable(self, net: nn.Module) -> int:
        return len(set(body_names(net).values())) * len(self.experts)

    def normalised_together(self, sizes: Sequence[int]) -> int:
        return min(sizes, default=0)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        if not self.experts or self.start is None:
            raise InputError(
                f"AdaMerging mixes all experts on task {task.name}, and was given none; use with_experts()"
            )
        self.check(net)
        adapted = loaded(net, state)
        adapted.eval().requires_grad_(False)
        merged = self._learnt(adapted, task, data)
        require_finite(merged, state, data, f"AdaMerging on task {task.name}", self.lr)
        adapted.load_state_dict(merged, strict=False)
        if batch_norms(adapted):
            take_statistics(adapted, [x for x, _ in data], self.images_at_once, task, self.statistics, self.lr)
        return clone(adapted.state_dict())

    def _learnt(self, net: nn.Module, task: Task, data: Iterable[Batch]) -> State:
        """The weights of the body, mixed by the learnt coefficients."""
        assert self.start is not None
        base, names = net.state_dict(), body_names(net)
        first = list(dict.fromkeys(names.values()))
        origin = {name: self.start[name] for name in first}
        vectors = {name: torch.stack([e.state[name] - origin[name] for e in self.experts]) for name in first}
        initial = 1 / len(self.experts) if self.initial is None else self.initial
        dtype = torch.promote_types(vectors[first[0]].dtype, torch.float32)
        coefficients = torch.full((len(first), len(self.experts)), initial, dtype=dtype, device=device_of(base))
        coefficients.requires_grad_()

        def mixed() -> State:
            shares = zip(first, coefficients.clamp(0, 1), strict=True)
            found = {
                name: origin[name] + torch.tensordot(share.to(vectors[name]), vectors[name], 1)
                for name, share in shares
            }
            return {name: found[of] for name, of in names.items()}

        optimizer = torch.optim.Adam([coefficients], lr=self.lr)
        for layer in batch_norms(net):
            layer.train()
        for x in _cycled(data, self.steps, task):
            with refusing_batch(x, task):
                logits = task_logits(net, base | mixed(), inputs(net, x, device_of(base)), task.classes)
            entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
            optimizer.zero_grad()
            entropy.backward()
            optimizer.step()
        with torch.no_grad():
            return mixed()


def _cycled(data: Iterable[Batch], count: int, task: Task) -> Iterable[Tensor]:
    """So many batches, of as many passes over the data as it takes."""
    while count:
        before = count
        for x, _ in data:
            if len(x) and count:
                count -= 1
                yield x
        if count == before:
            raise InputError(f"AdaMerging needs at least one image of task {task.name}; the user has none")
