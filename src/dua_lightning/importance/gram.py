"""Gram matrices of the inputs of linear and convolution layers, for the merge `RegMean`.

[Jin2023] X. Jin, X. Ren, D. Preotiuc-Pietro, P. Cheng. Dataless knowledge fusion by merging weights of language models.
ICLR 2023.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.params import body_names, device_of, eval_mode, fitted, inputs, task_logits
from dua_lightning.tasks import Batch, Expert, Prior

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
"""The convolutions whose inputs can be unfolded."""


@dataclass(frozen=True)
class Gram:
    """Measure E_x X^T X, X the inputs of a layer of the body for one image; the prior of RegMean [Jin2023].

    A row of X is what makes one output: the input of a linear layer, once for each of its positions, or the patch that
    a convolution sees at a position. A convolution in groups has a matrix for each group. Labels are never read.

    The prior has under the name of each weight `(groups, d, d)`, d the numbers of a row: 0.1 GB for a convolution of
    512 channels and kernels of 3 x 3, and 2.5 GB for the first linear layer of VGG11. Weights that no such layer uses
    by itself (of normalisations, of attention, biases) are not in it.
    """

    needs_labels: ClassVar[bool] = False

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Prior:
        names, state, device = body_names(net), fitted(net, expert.state), device_of(expert.state)
        sums: Prior = {}

        def add(name: str, layer: nn.Linear | Convolution, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # The patches of a single image are many times as large as it is.
            for x in args[0] if args else kwargs["input"]:
                rows = _rows(layer, x).to(torch.promote_types(x.dtype, torch.float32))
                product = rows.mT @ rows
                sums[name] = sums[name].add_(product) if name in sums else product

        count = 0
        with ExitStack() as stack, eval_mode(net), torch.no_grad():
            for prefix, layer in net.named_modules():
                weight = f"{prefix}.weight".lstrip(".")
                if isinstance(layer, nn.Linear | Convolution) and weight in names:
                    hook = partial(add, names[weight])
                    stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
            for x, _ in data:
                task_logits(net, state, inputs(net, x, device), expert.task.classes)
                count += len(x)
        if not count:
            raise InputError(
                f"an importance needs at least one image of task {expert.task.name}, and the data have none"
            )
        return {name: sums[first] / count for name, first in names.items() if first in sums}


def _rows(layer: nn.Linear | Convolution, x: Tensor) -> Tensor:
    """The inputs of one image that make one output each, `(groups, positions, d)`."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # Torch itself pads with this; `padding` may be the word "same".
    x = nn.functional.pad(x[None], layer._reversed_padding_repeated_twice, mode=mode)[0]
    dims = len(layer.kernel_size)
    for dim, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 1
    ):
        x = x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    # From (channels, positions, kernel) to (groups, positions, channels of a group x kernel).
    x = x.unflatten(0, (layer.groups, -1)).flatten(2, 1 + dims)
    return x.transpose(1, 2).flatten(2)
