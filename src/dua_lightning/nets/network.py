"""A body that all tasks share and one head whose columns belong to tasks."""

from torch import Tensor, nn


class Network(nn.Module):
    """`head(body(x))`: `(n, ...)` inputs to `(n, classes)` logits of every class of the benchmark.

    Importances and merges concern the body; a task reads its own columns of the head.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits
