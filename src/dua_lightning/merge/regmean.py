"""RegMean.

[Jin2023] X. Jin, X. Ren, D. Preotiuc-Pietro, P. Cheng. Dataless knowledge fusion by merging weights of language models.
ICLR 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.merge.base import check_finite
from dua_lightning.merge.mean import Mean
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class RegMean:
    """Each layer's weights are those whose outputs are nearest to its experts': W = (sum_t G_t W_t)(sum_t G_t)^-1.

    G_t is the Gram matrix of the layer's inputs on the data of task t, as `importance.Gram` measures it [Jin2023]. An
    input that is 0 for all of them keeps the mean of the weights. So do all weights without a matrix: biases and those
    of normalisations. It is solved on the processor in float64.

    Args:
        shrinkage: The factor alpha of the entries of G_t off its diagonal; 0.9 in the paper. With 1 the matrices of few
            images have no inverse.

    Raises:
        InputError: `shrinkage` or a prior cannot be used, a merged weight is not finite, or `Mean` raises it.
    """

    shrinkage: float = 0.9
    needs_prior: ClassVar[bool] = True
    keeps_statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.shrinkage < 1:
            raise InputError(f"the shrinkage of RegMean is at least 0 and less than 1, got {self.shrinkage}")

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        model = Mean()(experts, [], start)
        if len(priors) != len(experts):
            raise InputError(f"RegMean needs a prior for each expert, got {len(experts)} experts, {len(priors)} priors")
        mean = model[experts[0].task.name]
        merged: State = {}
        for name in priors[0]:
            grams = [_gram(prior, expert, name) for prior, expert in zip(priors, experts, strict=True)]
            thetas = [expert.state[name] for expert in experts]
            merged[name] = mean[name] + self._step(grams, thetas, mean[name])
            check_finite(merged[name], experts, name)
        return {task: state | merged for task, state in model.items()}

    def _step(self, grams: Sequence[Tensor], thetas: Sequence[Tensor], mean: Tensor) -> Tensor:
        """Solve for the difference from the mean, which is 0 where nothing is known."""
        total, right = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        for gram, theta in zip(grams, thetas, strict=True):
            wide = gram.cpu().double()
            shrunk = wide.lerp(torch.diag_embed(wide.diagonal(dim1=1, dim2=2)), 1 - self.shrinkage)
            total = total + shrunk
            right = right + shrunk @ (theta - mean).cpu().double().view(len(wide), -1, wide.shape[1]).mT
        diagonal = total.diagonal(dim1=1, dim2=2)
        diagonal += diagonal == 0
        # All else is positive definite: alpha G + (1 - alpha) diag(G).
        return torch.cholesky_solve(right, torch.linalg.cholesky(total)).mT.reshape(mean.shape).to(mean)


def _gram(prior: Prior, expert: Expert, name: str) -> Tensor:
    """The matrices of one weight, which must be some."""
    gram, theta = prior.get(name), expert.state.get(name)
    fits = (
        gram is not None
        and theta is not None
        and theta.dim() > 1
        and gram.dim() == 3
        and gram.shape[1:] == 2 * (theta[0].numel(),)
        and len(theta) % len(gram) == 0
        and bool(gram.isfinite().all())
    )
    if not fits:
        raise InputError(
            f"RegMean needs the Gram matrices of the inputs of {name}, of finite numbers, and the prior of task "
            f"{expert.task.name} has none that fit; use importance=gram"
        )
    assert gram is not None
    return gram
