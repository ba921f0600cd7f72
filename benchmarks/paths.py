"""The hot paths: each with a lower bound, a target for the ratio of the two, and what else one could run.

A path is made when it is measured. Its calls work on the same data and are run in turn in one process.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

# Before torch is loaded, as the command line does.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

import torch
from torch import Tensor, nn

from dua_lightning import user
from dua_lightning.adapt import Unchanged
from dua_lightning.data.images import Images, images
from dua_lightning.data.user import UserData
from dua_lightning.importance import FIM, MAS, Importance
from dua_lightning.importance.functional import Functional
from dua_lightning.importance.measurement import Precision
from dua_lightning.merge import Mode
from dua_lightning.nets import from_torchvision, mlp, vgg11, vgg11_bn
from dua_lightning.params import Params, clone
from dua_lightning.tasks import Expert, Task

Call = Callable[[], object]


@dataclass(frozen=True)
class Sides:
    """The things that are compared: the path, its lower bound, and peers by name."""

    path: Call
    floor: Call
    peers: dict[str, Call] = field(default_factory=dict)


@dataclass(frozen=True)
class Path:
    """`target` bounds the time of the path in units of its floor, `memory` its peak memory where there is a bound."""

    floor: str
    make: Callable[[], Sides]
    target: float
    memory: float | None = None


def noise(count: int, shape: tuple[int, ...] = (3, 28, 28), classes: int = 2) -> Images:
    """Images of uniform noise, as many of each class."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=stream)
    return images(pixels, torch.arange(count) % classes, torch.arange(count), 0.5, 0.5)


def psi(
    net: nn.Module, shape: tuple[int, ...], count: int, kind: Literal["MAS", "FIM"], precision: Precision = "full"
) -> Sides:
    """One expert's importance; floor: a forward and backward pass of the same batch, with gradients of all weights."""
    data = noise(count, shape)
    x, y = data.inputs(), data.labels
    net.eval()
    expert = Expert(Task("task", slice(0, 2)), clone(net.state_dict()))
    importance: Importance = (MAS if kind == "MAS" else FIM)(precision=precision)
    loss, scalar, power = LOSSES[kind]

    def floor() -> None:
        net.zero_grad()
        loss(net(x), y).backward()

    def loop() -> None:
        total = [torch.zeros_like(p) for p in net.parameters()]
        for i in range(count):
            net.zero_grad()
            loss(net(x[i : i + 1]), y[i : i + 1]).backward()
            for t, p in zip(total, net.parameters(), strict=True):
                t += p.grad.abs().pow(power)

    def vmapped() -> None:
        totals = {name: torch.zeros_like(p) for name, p in net.named_parameters() if not name.startswith("head.")}
        with torch.no_grad():
            Functional(net, expert, scalar, power, totals).add(x, y)

    def opacus() -> None:
        from opacus import GradSampleModule

        # Its hooks see layers in training mode alone, and break on a rectifier in place.
        twin = copy.deepcopy(net).train()
        for module in twin.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
            if isinstance(module, nn.ReLU):
                module.inplace = False
        wrapped = GradSampleModule(twin, loss_reduction="sum")
        loss(wrapped(x), y).backward()
        for p in wrapped.parameters():
            p.grad_sample.abs().pow(power).sum(0)

    def backpack() -> None:
        from backpack import backpack, extend, extensions

        flat = extend(nn.Sequential(*copy.deepcopy(net.body), copy.deepcopy(net.head)).eval())
        measure = extend(nn.MSELoss(reduction="sum") if kind == "MAS" else nn.CrossEntropyLoss(reduction="sum"))
        with backpack(extensions.BatchGrad() if kind == "MAS" else extensions.SumGradSquared()):
            logits = flat(x)
            measure(logits, torch.zeros_like(logits) if kind == "MAS" else y).backward()
        if kind == "MAS":
            for p in flat.parameters():
                p.grad_batch.abs().sum(0)

    peers = {"loop, batch size 1": loop, "torch.func": vmapped}
    # Neither follows a residual sum or a weight outside its layers.
    sequential = isinstance(net.body, nn.Sequential)
    if sequential and find_spec("backpack"):
        peers["BackPACK"] = backpack
    if sequential and find_spec("opacus") and not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        peers["Opacus"] = opacus
    return Sides(lambda: importance(net, expert, [(x, y)]), floor, peers)


def _squared(logits: Tensor, _: Tensor) -> Tensor:
    return logits.square().sum(-1)


def _likelihood(logits: Tensor, y: Tensor) -> Tensor:
    chosen: Tensor = logits.log_softmax(-1).gather(-1, y[..., None])[..., 0]
    return chosen


LOSSES: dict[str, Any] = {
    "MAS": (lambda logits, _: logits.square().sum(), _squared, 1),
    "FIM": (lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="sum"), _likelihood, 2),
}
"""The number that is differentiated, of a batch and of samples one by one, and the power of its gradient."""


def one_user() -> Sides:
    """psi on five experts, the merge and the evaluation, 500 + 500 images a task; floor: five forward and backward
    passes and five forward passes, of images that are ready."""
    tasks = [Task(f"{2 * t}-{2 * t + 1}", slice(2 * t, 2 * t + 2)) for t in range(5)]
    net = mlp((3, 28, 28), 10, seed=0)
    experts = [Expert(task, clone(mlp((3, 28, 28), 10, seed=k).state_dict())) for k, task in enumerate(tasks)]
    data = []
    for task in tasks:
        found = noise(1000)
        data.append(replace(found, labels=found.labels + task.classes.start))
    someone = UserData("user", data, tasks, seed=0)
    ready = [(someone.of(task).validation.inputs(), someone.of(task).evaluation.inputs()) for task in tasks]

    def path() -> None:
        priors = user.measure(MAS(), net, experts, someone)
        model = Mode()(experts, priors, {})
        user.evaluate(net, experts, [(len(tasks), model)], Unchanged(), someone)

    def floor() -> None:
        for x, _ in ready:
            net.zero_grad()
            net(x).square().sum().backward()
        with torch.no_grad():
            for _, x in ready:
                net(x).argmax(1)

    return Sides(path, floor)


def merge(weights: int = 133_000_000, count: int = 4) -> Sides:
    """Experts of VGG11's size; floor: triads that move as many bytes, into memory that is fresh each time as well."""
    states = [{"body": torch.rand(weights)} for _ in range(count)]
    experts = [Expert(Task(str(k), slice(2 * k, 2 * k + 2)), state) for k, state in enumerate(states)]
    priors: list[Params] = [{"body": torch.rand(weights)} for _ in range(count)]
    moved, triad = 2 * count + 1, 3

    def floor() -> None:
        out = torch.empty(weights)
        # Each reads two tensors and writes one: three of them move the nine tensors of a merge of four.
        for k in range(moved // triad):
            torch.add(experts[k].state["body"], priors[k]["body"], alpha=0.5, out=out)

    def released() -> None:
        total = sum(prior["body"] for prior in priors)
        total[total == 0] = 1e-10
        sum(expert.state["body"] * (prior["body"] / total) for expert, prior in zip(experts, priors, strict=True))

    return Sides(lambda: Mode()(experts, priors, {}), floor, {"an expression of whole tensors": released})


def start() -> Sides:
    """`--help`; floor: the interpreter alone."""

    def process(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    return Sides(lambda: process("-m", "dua_lightning", "--help"), lambda: process("-c", "pass"))


def _mlp() -> nn.Module:
    return mlp((3, 28, 28), 2, seed=0)


def _vgg11() -> nn.Module:
    return vgg11((3, 224, 224), 2, seed=0)


def _vgg11_bn() -> nn.Module:
    return vgg11_bn((3, 64, 64), 2, seed=0, pooled=1)


def _named(name: str, **arguments: Any) -> nn.Module:
    return from_torchvision(name, (3, 64, 64), 2, seed=0, **arguments)


PASS = "forward + backward of the batch"
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "mobilenet_v2": {},
    "efficientnet_b0": {},
    "convnext_tiny": {},
    "vit_b_16": {"image_size": 64},
}
"""Networks of torchvision, and what they are made with."""
PATHS: dict[str, Path] = {
    "MAS, VGG11, 8 images of 224": Path(PASS, lambda: psi(_vgg11(), (3, 224, 224), 8, "MAS"), 1.15, 1.2),
    "MAS, VGG11-BN, 64 images of 64": Path(PASS, lambda: psi(_vgg11_bn(), (3, 64, 64), 64, "MAS"), 1.2, 1.0),
    "FIM, VGG11-BN, 64 images of 64": Path(PASS, lambda: psi(_vgg11_bn(), (3, 64, 64), 64, "FIM"), 1.2, 1.0),
    "MAS in bfloat16, VGG11-BN, 64 images of 64": Path(
        PASS, lambda: psi(_vgg11_bn(), (3, 64, 64), 64, "MAS", "bf16"), 0.6
    ),
    "MAS, MLP, 1,000 images": Path(PASS, lambda: psi(_mlp(), (3, 28, 28), 1000, "MAS"), 1.2),
    "FIM, MLP, 1,000 images": Path(PASS, lambda: psi(_mlp(), (3, 28, 28), 1000, "FIM"), 1.2),
    **{
        f"MAS, {name}, 64 images of 64": Path(
            PASS, lambda name=name, given=given: psi(_named(name, **given), (3, 64, 64), 64, "MAS"), 1.5
        )
        for name, given in BACKBONES.items()
    },
    "one user: psi, merge, evaluation, MLP": Path("5 forward + backward, 5 forward", one_user, 1.5),
    "mode merge, 4 experts of 133M weights": Path("triads that move the same bytes", merge, 1 / 0.75),
    "--help": Path("the interpreter alone", start, float("inf")),
}
