"""The engine: exact means over samples of a power of each sample's own gradient, at the price of one backward pass.

The absolute value (MAS) or the square (FIM) is taken per sample, before any sum. Taking it of a batch's mean
gradient is another, biased quantity that depends on the batch size.

One forward and one backward pass carry a batch with all weights frozen, so that autograd computes the gradients of the
data alone. When the pass comes to a layer's output, the layer's rule (`rules.py`) makes of the output's gradient and of
the layer's input what each sample adds, and both are let go.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm  # no public class is common to these layers
from torch.nn.utils import parametrize

from dua_lightning.errors import InputError
from dua_lightning.importance.attention import step_by_step
from dua_lightning.importance.bfloat16 import say_if_slow
from dua_lightning.importance.free import FreeWeights
from dua_lightning.importance.functional import Functional, unwarned
from dua_lightning.importance.measurement import Measurement, Precision
from dua_lightning.importance.rules import RULES, Power, Rule, add_power_, add_powers_
from dua_lightning.importance.scalars import Scalar
from dua_lightning.params import Params, State, body_names, device_of, eval_mode, fitted, moved, task_logits
from dua_lightning.tasks import Batch, Expert, Task

log = logging.getLogger(__name__)

MEMORY = 384 * 2**20
"""Bytes of activations that one pass may hold by default; more images than fit go in several passes.

Each pass reads all weights and totals anew.
"""
ACCELERATOR_MEMORY = 2 * 2**30
"""The same on an accelerator, where passes of a few images take as long as those of many."""
TOLERANCE = 1e-3
"""The difference from plain autograd that is forgiven: far above rounding, far below the effect of a missed use."""
ROUNDING = 1e-5
"""The share of the largest mean gradient that is rounding: a bias before a normalisation has no effect at all."""


def mean_over_samples(
    net: nn.Module,
    expert: Expert,
    data: Iterable[Batch],
    scalar: Scalar,
    power: Power,
    side: Callable[[Tensor, Tensor | None], Tensor] | None = None,
    precision: Precision = "full",
    memory: int | None = None,
) -> Params:
    """Compute the mean over samples of `|d scalar / d theta|^power` for each parameter theta of the shared body.

    On the first use of a network with inputs of one shape the engine is compared with plain autograd on two images.
    Where they differ, or a layer has no rule, `torch.func` serves the whole network, or plain autograd one sample at a
    time where that cannot. A line of the log says so, and why.

    Args:
        net: The network, a workspace that is left as it was.
        expert: The expert; everything is computed on the device of its state, to which the batches are moved.
        data: The batches; the result depends neither on their sizes nor on their order.
        scalar: Maps one sample's logits `(classes of the task,)` and its side value `()` to `()`.
        power: 1 for the absolute gradient, 2 for its square.
        side: Makes the side values `(n,)` of a batch from its inputs and labels; without it they are 0.
        precision: The precision of the passes.
        memory: Bytes of activations that one pass may hold; the result does not depend on it. By default `MEMORY`, and
            more on an accelerator.

    Returns:
        A tensor for each weight of the body, in float32, or in the weights' type where that is wider.

    Raises:
        InputError: There is no sample or no weight; the expert's state is not one of the network; batch normalisation
            has no running statistics; or a layer's input is changed in place afterwards.
    """
    names = body_names(net)
    if not names:
        raise InputError(f"this {type(net).__name__} has no weights outside its head, so none can be important")
    state = {name: tensor.detach() for name, tensor in fitted(net, expert.state).items()}
    totals = {
        name: torch.zeros_like(state[name], dtype=torch.promote_types(state[name].dtype, torch.float32))
        for name in dict.fromkeys(names.values())
    }
    device = device_of(totals)
    if memory is None:
        memory = MEMORY if device.type == "cpu" else ACCELERATOR_MEMORY
    if precision == "bf16" and device.type == "cpu":
        say_if_slow()
    count = unit = 0
    # An autocast around the call would compute in another precision than the one that is asked for.
    with eval_mode(net), torch.no_grad(), _autocast(device, "full"), _float32_convolutions():
        engine = None
        for x, y in data:
            if not len(x):
                continue
            sides = torch.zeros(len(x)) if side is None else side(x, y)
            x, sides = moved(x.detach(), device), moved(sides, device)
            if engine is None:
                # The sums of a scaled scalar over a single batch are the means, and large totals need not be divided.
                # In half precision the scale would round.
                unit = len(x) if all(state[name].dtype == total.dtype for name, total in totals.items()) else 1
                scale, frozen = unit ** (-1 / power), Expert(expert.task, state)
                asked = Measurement(net, names, frozen, scalar, scale, power, totals, precision, memory)
                engine = _choose(asked, x, sides)
            engine.add(x, sides)
            count += len(x)
    if not count:
        raise InputError(f"an importance needs at least one image of task {expert.task.name}, and the data have none")
    if count > unit:
        for total in totals.values():
            total.mul_(unit / count)
    return {name: totals[first] for name, first in names.items()}


@dataclass(frozen=True)
class _Plan:
    """The findings of the first use of a network.

    They are whether the rules fit it, what keeps `torch.func` from it, and what a pass holds for each sample.
    """

    key: tuple[Any, ...]
    fits: bool
    obstacle: str
    sample_bytes: int


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()


def _choose(asked: Measurement, x: Tensor, sides: Tensor) -> "_Engine | Functional":
    """Choose the engine for a network, which is compared with plain autograd first if it has not been yet."""
    functional = Functional(asked.net, asked.expert, asked.scalar, asked.power, asked.totals, asked.scale)
    layers = [(name, type(module)) for name, module in asked.net.named_modules()]
    key = layers, dict(asked.names), x.shape[1:], x.dtype, next(iter(asked.totals.values())).dtype
    plan = _plans.get(asked.net)
    if plan is None or plan.key != key:
        _refuse_batch_statistics(asked.net)
        try:
            fits, size = _compare(asked, x)
            reason = "the layers' rules and plain autograd differ on it"
        except _UnfitError as unfit:
            fits, size, reason = False, 0, str(unfit)
        if not fits:
            # A pair: of a single sample torch may carry what it cannot carry of several.
            functional.add(x[:1].repeat(2, *[1] * (x.dim() - 1)), sides[:1].repeat(2))
            way = "by torch.func, which is slower"
            if functional.obstacle:
                way = f"one image at a time, which is slow, since torch.func cannot batch it ({functional.obstacle})"
            log.warning("%s: importances %s; %s", type(asked.net).__name__, way, reason)
        for total in asked.totals.values():
            total.zero_()
        plan = _plans[asked.net] = _Plan(key, fits, functional.obstacle, size)
    if not plan.fits:
        functional.obstacle = plan.obstacle
        return functional
    return _Engine(asked, plan.sample_bytes / max(1, x[0].numel()))


def _compare(asked: Measurement, x: Tensor) -> tuple[bool, int]:
    """Whether the rules' sums of absolute gradients are those of plain autograd; bytes held per sample.

    For two noisy images, moved buffers, gains and biases, and a mixture of all logits: with the data's, the expert's
    and the scalar's own, a use that the rules miss may have no effect. The sums, still 0, hold the differences in the
    end. No more than one weight's plain gradient exists at a time.
    """
    dtype = next(iter(asked.totals.values())).dtype
    stream = torch.Generator().manual_seed(0)

    def noise(shape: torch.Size) -> Tensor:
        return moved(torch.rand(shape, generator=stream, dtype=dtype), x.device)

    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in asked.expert.state.items()}
    buffers = {name for name, _ in asked.net.named_buffers()}
    for name, t in state.items():
        # Not every weight: a copy of the large ones would be as large.
        if t.is_floating_point() and (name in buffers or t.dim() < 2):
            state[name] = t + noise(t.shape)
    images = x[:1].repeat(2, *[1] * (x.dim() - 1))
    if x.is_floating_point():
        images = images.to(dtype) + noise(images.shape)
    sides = torch.zeros(len(images), device=x.device)

    def mixture(logits: Tensor, _: Tensor) -> Tensor:
        return (logits * torch.arange(1, logits.shape[-1] + 1, device=logits.device).to(dtype).cos()).sum(-1)

    _refuse_branches(asked.net, state, images.clone())
    everything = Expert(Task("all", slice(None)), state)
    probe = replace(asked, expert=everything, scalar=mixture, scale=1.0, power=1, precision="full")
    try:
        held = _Engine(probe, 0).measured_add(images.clone(), sides)
    except InputError:
        raise
    except Exception as error:  # of a rule, which may be the user's own
        raise _UnfitError(f"a rule failed ({error})") from error

    theta = {name: state[name].detach().requires_grad_() for name in asked.totals}
    sizes = dict.fromkeys(theta, 0.0)

    def subtract(name: str, p: Tensor) -> None:
        if p.grad is not None:
            sizes[name] += _size(p.grad)
            asked.totals[name].sub_(p.grad.abs_())
            p.grad = None

    for name, p in theta.items():
        p.register_post_accumulate_grad_hook(partial(subtract, name))
    for image in images.split(1):
        with torch.enable_grad():
            value = mixture(task_logits(asked.net, state | theta, image.clone(), slice(None))[0], sides)
        if value.requires_grad:
            value.backward()
    rounding = ROUNDING * max(sizes[name] / max(1, total.numel()) for name, total in asked.totals.items())
    fits = all(_size(t) <= TOLERANCE * sizes[name] + rounding * t.numel() for name, t in asked.totals.items())
    return fits, held // len(images)


def _refuse_branches(net: nn.Module, state: State, images: Tensor) -> None:
    """Refuse a pass that branches on numbers: those of a batch may send it another way than those of one image."""
    try:
        with unwarned():
            vmap(lambda image: task_logits(net, state, image[None], slice(None)))(images)
    except Exception as error:
        # vmap has one class of errors for this and for all else that it cannot do, which the rules may.
        if any(words in str(error) for words in ("data-dependent", ".item()", "data pointer")):
            raise _UnfitError("its forward pass branches on numbers") from error


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    if precision == "bf16":
        raise InputError(f"passes in bfloat16 need autocast, which {device} does not have; use precision='full'")
    return nullcontext()


@contextmanager
def _float32_convolutions() -> Iterator[None]:
    """Keep a GPU's convolutions from TF32, PyTorch's default, which moves psi of ResNet18 by 1 %."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch makes it at run time
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _size(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, 1))


def _refuse_batch_statistics(net: nn.Module) -> None:
    for name, layer in net.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is None:
            raise InputError(
                f"{name} normalises by the batch's own statistics, so no image has a gradient of its own; build it "
                "with track_running_stats=True"
            )


def _free(module: nn.Module) -> bool:
    """Whether the uses of the module's own weights can be seen: most of torch's own layers hide them."""
    kind = type(module)
    seen = kind in RULES or kind is nn.MultiheadAttention or kind.__module__ == parametrize.__name__
    return seen or not kind.__module__.startswith("torch.nn.")


def _fits_rule(module: nn.Module, weights: Iterable[str]) -> bool:
    """Whether the rule of the module's class knows its weights: pruning, for one, puts others in their place."""
    kind = type(module)
    return kind in RULES and (not kind.__module__.startswith("torch.nn.") or {"weight", "bias"}.issuperset(weights))


class _UnfitError(InputError):
    """The rules cannot serve this network; says why."""


class _Seen(torch.autograd.Function):
    """A layer's output, in the same memory, as no view and part of the graph.

    Neither images nor weights ask for a gradient, so the graph has to start somewhere. And a change in place of a view
    would give it another history, so that its gradient would not come here.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, root: Tensor) -> Tensor:
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> tuple[Tensor, None]:
        return d[0], None


@dataclass
class _Use:
    """One call of a layer, kept until the gradient `d` of its output has come; `names` are its weights' full names."""

    layer: nn.Module
    names: dict[str, str]
    buffers: State
    a: Tensor
    version: int
    d: Tensor | None = None

    @property
    def place(self) -> str:
        """The name of the module whose weights they are."""
        return min(self.names.values()).rpartition(".")[0]


class _Engine:
    """Adds sums over samples of |gradient|^power to the totals; a pass holds `bytes_per_number` of the images."""

    def __init__(self, asked: Measurement, bytes_per_number: float) -> None:
        self.asked = asked
        self.bytes_per_number = bytes_per_number
        self.root = next(iter(asked.totals.values())).new_zeros((), requires_grad=True)
        self.names = {module: name for name, module in asked.net.named_modules()}
        self.weights: dict[nn.Module, dict[str, str]] = {}
        self.free: FreeWeights | None = None
        self.has_free = False
        for module, prefix in self.names.items():
            held = module.named_parameters(recurse=False, remove_duplicate=False)
            full = {own: f"{prefix}.{own}" if prefix else own for own, _ in held}
            weights = {own: asked.names[name] for own, name in full.items() if name in asked.names}
            if weights and _fits_rule(module, weights):
                self.weights[module] = weights
            elif weights and not _free(module):
                raise _UnfitError(f"{prefix or 'the network itself'} is a {type(module).__name__}, which has no rule")
            self.has_free |= bool(weights) and module not in self.weights
        self.attentions = [module for module in self.names if type(module) is nn.MultiheadAttention]
        self.images = 0
        self.uses: list[_Use] = []
        self.shared: set[str] = set()
        self.waiting: list[_Use] = []

    def add(self, x: Tensor, sides: Tensor) -> None:
        """The samples `x` `(n, ...)` with their side values `(n,)`."""
        most = max(1, int(self.asked.memory / max(1.0, x[0].numel() * self.bytes_per_number)))
        # Equal passes: one of a few images takes almost as long as that of many.
        chunk = -(-len(x) // -(-len(x) // most))
        for xs, s in zip(x.split(chunk), sides.split(chunk), strict=True):
            self._add(xs, s)

    def measured_add(self, x: Tensor, sides: Tensor) -> int:
        """The same in one pass; returns the bytes of what it held."""
        held: dict[int, int] = {}
        weights = {tensor.data_ptr() for tensor in self.asked.expert.state.values()}

        def note(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights:
                held[tensor.data_ptr()] = max(tensor.nbytes, held.get(tensor.data_ptr(), 0))
            # A step of the graph that held its own output would never be freed.
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self._add(x, sides, note)
        return sum(held.values())

    def _add(self, x: Tensor, sides: Tensor, note: Callable[[Tensor], Tensor] | None = None) -> None:
        self.images = len(x)
        state = dict(self.asked.expert.state)
        weights = {name: state[name] for name in self.asked.totals}
        others = [tensor for name, tensor in state.items() if name not in weights]
        self.free = FreeWeights(weights, others, len(x), self._shown)
        with ExitStack() as stack:
            for layer in self.weights:
                hook = layer.register_forward_pre_hook(self._begins, with_kwargs=True)
                stack.callback(hook.remove)
                hook = layer.register_forward_hook(self._seen, prepend=True, with_kwargs=True)
                stack.callback(hook.remove)
            for attention in self.attentions:
                stack.enter_context(step_by_step(attention))
            if self.has_free:
                stack.enter_context(self.free)
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_autocast(self.root.device, self.asked.precision))
            logits = task_logits(self.asked.net, state, x, self.asked.expert.task.classes)
            value = self.asked.scalar(logits.to(self.root.dtype), sides).sum() * self.asked.scale
        if note is not None:
            for use in self.uses:
                note(use.a)
        copies = self.free.copies
        used = chain(copies, (name for use in self.uses for name in use.names.values()))
        times = Counter(weight for name in used for weight in self.free.weights_of(name))
        self.shared = {name for name, count in times.items() if count > 1}
        self.uses.clear()
        if value.requires_grad:
            _, *gradients = torch.autograd.grad(value, [self.root, *copies.values()], allow_unused=True)
            found = {name: g for name, g in zip(copies, gradients, strict=True) if g is not None}
            for name in [name for name in found if name in self.asked.totals and name not in self.shared]:
                add_powers_(self.asked.totals[name], found.pop(name), self.asked.power)
            self._add_each(self.waiting, found)
        self.waiting.clear()
        self.free = None

    def _shown(self, layer: nn.Module, names: dict[str, str], buffers: State, a: Tensor, y: Tensor) -> Tensor:
        """After a function that stands for a layer."""
        if not torch.is_grad_enabled():
            return y
        return self._waits(_Use(layer, names, buffers, a.detach(), a._version), y)

    def _begins(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a layer's forward pass: what it computes of weights and buffers alone is a weight itself."""
        assert self.free is not None
        a = args[0] if args else kwargs["input"]
        self.free.idle = not self.free.is_constant(a)

    def _seen(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
        """After a layer's forward pass: keep its input, and wait for its output's gradient."""
        assert self.free is not None
        idle, self.free.idle = self.free.idle, False
        if not idle or not torch.is_grad_enabled():
            return y
        a: Tensor = args[0] if args else kwargs["input"]
        buffers = dict(layer.named_buffers(recurse=False))
        # `_version` is the count of writes, which has no public name.
        return self._waits(_Use(layer, self.weights[layer], buffers, a.detach(), a._version), y)

    def _waits(self, use: _Use, y: Tensor) -> Tensor:
        """The output of a use, whose gradient is awaited."""
        each, rest = divmod(len(use.a), self.images)
        # Several rows of one image, such as its windows, follow each other; the comparison shows where they do not.
        if use.a.dim() < 2 or rest or not (each == 1 or (each and isinstance(use.layer, nn.Linear | nn.LayerNorm))):
            raise _UnfitError(f"{use.place} sees {len(use.a)} inputs for {self.images} images")
        if not y.requires_grad or y._base is not None:  # a view has no public mark
            y = _Seen.apply(y, self.root)
        self.uses.append(use)

        def arrived(d: Tensor | None) -> None:
            if d is not None:
                self._arrived(use, d)

        y.register_hook(arrived)
        return y

    def _arrived(self, use: _Use, d: Tensor) -> None:
        if use.a._version != use.version:
            raise InputError(
                f"the input of {use.place} is changed in place after the layer has seen it, so the layer's gradient "
                "cannot be computed; use the form that is not in place"
            )
        assert self.free is not None
        if len(use.a) != self.images:
            use.a, d = (t.unflatten(0, (self.images, -1)) for t in (use.a, d))
        weights = set().union(*map(self.free.weights_of, use.names.values()))
        if not self.shared.isdisjoint(weights):
            use.d = d
            self.waiting.append(use)
            return
        if weights == set(use.names.values()):
            totals = {own: self.asked.totals[name] for own, name in use.names.items()}
            RULES[type(use.layer)].add_(totals, use.layer, use.buffers, use.a, d, self.asked.power)
        else:
            use.d = d
            self._add_each([use], {})
        del use.a, use.d

    def _add_each(self, uses: list[_Use], copies: Params) -> None:
        """Weights that are used more than once or computed: each sample's gradients add up before the power."""
        assert self.free is not None
        for i in range(self.images if uses or copies else 0):
            sums = {name: gradient[i] for name, gradient in copies.items()}
            for use in uses:
                assert use.d is not None
                rule: Rule = RULES[type(use.layer)]
                gradients = rule.gradients(use.layer, use.buffers, use.a[i : i + 1], use.d[i : i + 1])
                for own, name in use.names.items():
                    sums[name] = sums[name] + gradients[own][0] if name in sums else gradients[own][0]
            for name, gradient in self.free.through(sums).items():
                # A rule may give the output's gradient itself, which the pass goes on with.
                add_power_(self.asked.totals[name], gradient.clone(), self.asked.power)
