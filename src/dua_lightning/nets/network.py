"""A body that all tasks share and one head whose columns belong to tasks."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """A shared body and one head: `head(body(x))` are the logits `(n, classes)` of every class of the benchmark.

    Importances and merges concern the body; a task reads its own columns of the head.

    Args:
        body: The part that all tasks share.
        head: The linear layer whose rows are the classes of all tasks.
        memory_format: The memory format of inputs that the body computes quickest with on a processor, see
            `params.inputs`; by default they stay as they are, since a body may ask for views that others do not have.
    """

    def __init__(
        self, body: nn.Module, head: nn.Linear, memory_format: torch.memory_format = torch.preserve_format
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.memory_format = memory_format

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits
