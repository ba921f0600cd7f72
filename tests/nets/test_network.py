"""The network's memory format: quicker passes with the same results, and none where a body was not asked about it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import AdaBN, AdaBNS, Adapt, Finetune
from dua_lightning.nets import Network, from_torchvision, vgg11_bn
from dua_lightning.params import clone, inputs, task_logits
from dua_lightning.tasks import Task
from tests.helpers.nets import close

TASK = Task("images", slice(0, 3))
NETS: dict[str, Callable[[], Network]] = {
    "vgg11_bn": lambda: vgg11_bn((3, 32, 32), 3, seed=1, width=0.05, pooled=1),
    "mobilenet_v2": lambda: from_torchvision("mobilenet_v2", (3, 32, 32), 3, seed=1, width_mult=0.1),
}
PHI: dict[str, Adapt] = {"AdaBN": AdaBN(), "AdaBN-S": AdaBNS(epochs=1), "fine-tuning": Finetune(epochs=1)}


def images(n: int = 6) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, 32, 32, generator=stream).double(), torch.arange(n) % 3


class Flattening(nn.Module):
    """A body that asks for a view which only contiguous images have, as many of people's own do."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(x)
        return y.view(len(y), -1)


@pytest.mark.parametrize("phi", PHI)
@pytest.mark.parametrize("name", NETS)
def test_the_memory_format_changes_no_result(name: str, phi: str) -> None:
    net = NETS[name]().double()
    state = clone(net.state_dict())
    x, y = images()
    assert inputs(net, x, x.device).is_contiguous(memory_format=torch.channels_last)
    found = PHI[phi](net, state, TASK, [(x, y)])
    net.memory_format = torch.preserve_format
    expected = PHI[phi](net, state, TASK, [(x, y)])
    net.eval()
    close(task_logits(net, found, x, TASK.classes), task_logits(net, expected, x, TASK.classes), 1e-9)


def test_a_body_of_ones_own_gets_images_as_they_are() -> None:
    net = Network(Flattening(), nn.Linear(2 * 30 * 30, 3)).double()
    x, y = images()
    assert inputs(net, x, x.device) is x
    Finetune(epochs=1)(net, clone(net.state_dict()), TASK, [(x, y)])
    net.memory_format = torch.channels_last
    with pytest.raises(RuntimeError, match="view"):
        net(inputs(net, x, x.device))


def test_inputs_that_are_no_images_stay_as_they_are() -> None:
    net = NETS["vgg11_bn"]()
    x = torch.rand(4, 7)
    assert inputs(net, x, x.device) is x
