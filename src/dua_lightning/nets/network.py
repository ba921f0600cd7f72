"""A body that all tasks share and one head whose columns belong to tasks."""

from torch import Tensor, nn


class Network(nn.Module):
    """A shared body and one head: `head(body(x))` are the logits `(n, classes)` of every class of the benchmark.

    Importances and merges concern the body; a task reads its own columns of the head.

    Args:
        body: The part that all tasks share.
        head: The linear layer whose rows are the classes of all tasks.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits
