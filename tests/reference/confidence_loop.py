"""The task of a picture by the experts' confidence: one picture and one expert at a time."""

import copy
import math
from collections.abc import Sequence

from torch import Tensor, nn

from dua_lightning.tasks import Expert


def most_confident(net: nn.Module, experts: Sequence[Expert], xs: Tensor) -> list[int]:
    """The first expert whose largest probability, over its own task's classes, is the largest."""
    found = []
    for x in xs:
        confidence = []
        for expert in experts:
            one = copy.deepcopy(net).eval()
            one.load_state_dict(expert.state)
            logits = one(x[None])[0].tolist()[expert.task.classes]
            confidence.append(max(math.exp(logit) for logit in logits) / sum(math.exp(logit) for logit in logits))
        found.append(confidence.index(max(confidence)))
    return found
