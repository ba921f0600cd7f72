"""Networks that the layers' rules do not fit: exact all the same, with one line in the log, or refused by name."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import linear
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import ConvNeXt, MobileNetV2, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.importance.rules import RULES, Rule
from dua_lightning.nets import Network
from dua_lightning.params import Params, State
from dua_lightning.tasks import Expert, Task
from tests.helpers.nets import CLASSES, MLP, TASK, Case, batches, close, labels, untouched
from tests.importance.engine import fallbacks
from tests.reference.power_loop import mean_power

N = 5
ONE_CLASS = Task("one", slice(3, 4))


def wave(logits: Tensor, _: Tensor) -> Tensor:
    return logits.sin().sum(-1)


def case(name: str, shape: tuple[int, ...], body: Callable[[], nn.Module], features: int) -> Case:
    return Case(name, shape, lambda _: Network(body(), nn.Linear(features, CLASSES)))


def assert_exact(case: Case, net: nn.Module, x: Tensor, size: int = N) -> None:
    for power in (1, 2):
        omega = mean_over_samples(net, case.expert(), batches(x.clone(), None, size), wave, power)
        close(omega, mean_power(case.build(), case.expert(), x, wave, power))


class Twofold(nn.Linear):
    """A linear layer by its class, and not by what it computes."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Scale(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(features)), nn.Parameter(torch.rand(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class Attention(nn.Module):
    """Attention to itself, with what is asked for beside the result, or with more of it than the engine knows."""

    def __init__(self, asked: dict[str, object], **kind: object) -> None:
        super().__init__()
        self.layer, self.attention = nn.Linear(3, 4), nn.MultiheadAttention(4, 2, **kind)
        self.asked = asked

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        x = x if self.attention.batch_first else x.transpose(0, 1)
        y, weights = self.attention(x, x, x, **self.asked)
        y = y if self.attention.batch_first else y.transpose(0, 1)
        return y.flatten(1) if weights is None else y.flatten(1) + weights.flatten(1).sum(1, keepdim=True) ** 2


class Cross(nn.Module):
    """Attention of one sequence to another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.attention = nn.Linear(3, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return self.attention(x.tanh(), x, x)[0].flatten(1)


class Tokens(nn.Module):
    """A token before the sequence, an embedding of its places, and gains, each written in one of the usual ways."""

    def __init__(self, spread: str) -> None:
        super().__init__()
        self.layer, self.spread = nn.Linear(3, 4), spread
        self.token, self.places = nn.Parameter(torch.rand(1, 1, 4)), nn.Parameter(torch.rand(1, 3, 4))
        self.gain, self.shift, self.left = (nn.Parameter(torch.rand(4)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        sizes = {"expand": (len(x), -1, -1), "repeat": (len(x), 1, 1)}[self.spread]
        x = torch.cat([getattr(self.token, self.spread)(*sizes), x], 1) + self.places
        x = (self.gain * x.tanh() - self.shift) / (1 + torch.mul(self.left, x).square())
        return x.mul_(self.gain).flatten(1)


class Functions(nn.Module):
    """Weights of its own that it gives to torch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.rand(4, 3)), nn.Parameter(torch.rand(4))
        self.gain, self.second = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4, 4))
        self.register_buffer("mean", torch.rand(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.layer_norm(linear(x, self.first, bias=self.bias).tanh(), (4,), self.gain)
        x = functional.batch_norm(input=x, running_mean=self.mean, running_var=self.variance, weight=self.gain)
        return linear(linear(x, self.second).tanh(), self.second)


class Matrix(nn.Module):
    """A weight in a product that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.weight = nn.Linear(3, 4), nn.Parameter(torch.rand(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() @ self.weight


class Both(nn.Module):
    """A weight that is a layer's and is broadcast as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bias = nn.Linear(3, 4), nn.Parameter(torch.rand(4))
        self.weight = nn.Parameter(torch.rand(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.layer(x), self.weight, self.bias).tanh() * self.bias


class Reused(nn.Module):
    """A weight that is used by its layer and without it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.layer(x).tanh(), self.layer.weight)


class Gated(Reused):
    """The same, the second use being shut off by a gate of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gate", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x).tanh()
        return x + self.gate * linear(x, self.layer.weight)


class Rows(nn.Module):
    """A layer that sees the elements of all sequences as one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, 1)).tanh().view(len(x), -1)


class SequenceFirst(nn.Module):
    """A layer whose input's first dimension is not the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).tanh().transpose(0, 1).flatten(1)


class OneByOne(nn.Module):
    """A convolution that sees images without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(image).tanh() for image in x]).flatten(1)


class Shift(nn.Module):
    """Changes its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5)


class Spoiling(nn.Module):
    """Changes the input of its layer in place, after the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.layer(x)
        return y + x.mul_(2)


class PartlyFrozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(3, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x).tanh()
        return self.layer(x)


class Nothing(torch.autograd.Function):
    """The identity, whose gradient is none."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, d: Tensor) -> None:
        return None


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return Nothing.apply(self.first(x)) + self.layer(x)


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


class Branching(nn.Module):
    """Takes one layer or the other, by what it reads of its input."""

    def __init__(self, read: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.read, self.first, self.layer = read, nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).tanh() if self.read(x) else self.layer(x).tanh()


class Triple(torch.autograd.Function):
    """A function in the form that torch.func takes neither alone nor in a batch."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: object, d: Tensor) -> Tensor:
        return 3 * d


class Tripled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.PReLU(3)

    def forward(self, x: Tensor) -> Tensor:
        return Triple.apply(self.layer(x).tanh())


class Standardised(nn.Conv2d):
    """A convolution whose weight is computed of the weight and a gain, as in networks without batch norm."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return functional.conv2d(x, self.gain * weight, self.bias, self.stride, self.padding).tanh()


class Windows(nn.Module):
    """Two windows of each sequence, with a bias for each pair of places that is looked up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(3, 3), nn.Parameter(torch.rand(3, 2))
        self.register_buffer("places", torch.tensor([[1, 0], [2, 1]]))

    def forward(self, x: Tensor) -> Tensor:
        windows = self.layer(x.reshape(-1, 2, 3))
        bias = self.table[self.places.view(-1)].view(2, 2, 2).permute(2, 0, 1).contiguous().unsqueeze(0)
        scores = (windows @ windows.mT).unsqueeze(1) + bias
        return (scores.softmax(-1).sum(1) @ windows).reshape(len(x), -1)


class Masked(nn.Module):
    """Attention whose mask is a table of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(4, 4), nn.Parameter(torch.rand(2, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.layer(x).unflatten(2, (2, 2)).transpose(1, 2)
        bias = (16 * self.table.sigmoid()).unsqueeze(0)
        return functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=bias).flatten(1)


class Interpolated(nn.Module):
    """An embedding of two places for sequences of three, through a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.own = nn.Linear(4, 4), nn.Linear(4, 4)
        self.places = nn.Parameter(torch.rand(1, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        places = functional.interpolate(self.places, size=3, mode="linear").mT
        return (self.layer(x) + self.own(places)).tanh().flatten(1)


def small_vit() -> nn.Module:
    body = VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8)
    nn.init.normal_(body.class_token)
    body.heads = nn.Identity()
    return body


def small_convnext() -> nn.Module:
    blocks = [CNBlockConfig(4, 8, 1), CNBlockConfig(8, None, 1)]
    body = ConvNeXt(blocks, layer_scale=0.5)
    body.classifier = nn.Sequential(body.classifier[0], nn.Flatten())
    return body


def small_swin(block: Callable[..., nn.Module], merging: Callable[..., nn.Module]) -> nn.Module:
    """Two stages of two blocks, so that windows are shifted and patches merged."""
    body = SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], block=block, downsample_layer=merging)
    body.head = nn.Identity()
    return body


def normalised_convolutions() -> nn.Module:
    first = weight_norm(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"))
    return nn.Sequential(first, nn.Tanh(), weight_norm(nn.Conv2d(4, 4, (2, 3), (2, 1), groups=2)), nn.Flatten())


def headless(net: nn.Module) -> nn.Module:
    setattr(net, "fc" if hasattr(net, "fc") else "classifier", nn.Identity())
    return net


def pruned(layer: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return prune.random_unstructured(layer, "weight", 0.4)


REUSED = case("a weight used without its layer", (3,), Reused, 3)
UNFIT = [
    case("prelu", (3,), lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4)), 4),
    case("attention to another sequence", (2, 3), Cross, 8),
    case("masked attention", (2, 3), lambda: Attention({"attn_mask": torch.eye(2) > 0}, batch_first=True), 8),
    case("attention with more keys", (2, 3), lambda: Attention({}, add_zero_attn=True, batch_first=True), 8),
    case("a product with a matrix", (3,), Matrix, 4),
    REUSED,
    case("sequences of two first", (2, 3), SequenceFirst, 8),
    case("sequences of three first", (3, 3), SequenceFirst, 12),
    case("images without a batch", (2, 5, 5), OneByOne, 27),
]
SLOW = [
    case("a GRU", (4, 3), lambda: Last(nn.GRU(3, 5, batch_first=True)), 5),
    case("a recurrent layer", (4, 3), lambda: Last(nn.RNN(3, 5, num_layers=2, batch_first=True)), 5),
    case("a truth value", (3,), lambda: Branching(lambda x: bool(x.sum() > 0)), 4),
    case("a number", (3,), lambda: Branching(lambda x: x.mean().item() > 0), 4),
    case("an array", (3,), lambda: Branching(lambda x: x.detach().numpy().sum() > 0), 4),
    case("a function of one's own", (3,), Tripled, 3),
]
"""Networks that `torch.func` cannot batch either."""
SEQUENCES = [
    case("an LSTM", (4, 3), lambda: Last(nn.LSTM(3, 5, batch_first=True)), 5),
]
FIT = [
    case(
        "a transformer",
        (4, 6),
        lambda: nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Flatten()),
        24,
    ),
    case("a subclass", (3,), lambda: nn.Sequential(Twofold(3, 4), nn.Tanh()), 4),
    case("a layer of one's own", (3,), lambda: nn.Sequential(nn.Linear(3, 4), Scale(4), nn.Tanh()), 4),
    case("attention", (2, 3), lambda: Attention({"need_weights": False}, batch_first=True), 8),
    case("attention, sequences first", (2, 3), lambda: Attention({"need_weights": False}), 8),
    case("attention with its weights", (2, 3), lambda: Attention({}, batch_first=True, bias=False), 8),
    case("of each head", (2, 3), lambda: Attention({"average_attn_weights": False}, batch_first=True), 8),
    case("expanded tokens", (2, 3), lambda: Tokens("expand"), 12),
    case("repeated tokens", (2, 3), lambda: Tokens("repeat"), 12),
    case("functions", (3,), Functions, 4),
    case("torchvision's ViT", (3, 8, 8), small_vit, 8),
    case("torchvision's ConvNeXt", (3, 16, 16), small_convnext, 8),
    case("torchvision's MobileNetV2", (3, 32, 32), lambda: headless(MobileNetV2(width_mult=0.1)), 1280),
    case("torchvision's ResNet", (3, 32, 32), lambda: headless(ResNet(BasicBlock, [1, 1, 1, 1])), 512),
    case("a part without gradient", (3,), PartlyFrozen, 4),
    case("a part whose gradient is none", (3,), Cut, 4),
    case("images changed in place", (3,), lambda: nn.Sequential(Shift(), nn.Linear(3, 4), nn.Tanh()), 4),
    # On sequences the library returns a view.
    case(
        "outputs changed in place",
        (2, 3),
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.SELU(inplace=True), nn.Linear(4, 4), nn.SELU(inplace=True), nn.Flatten()
        ),
        8,
    ),
    # The mean of each channel, and with it the bias, is taken away: a gradient of rounding errors.
    case(
        "gradients that are 0",
        (2, 5, 5),
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(4, 4), nn.Flatten()),
        36,
    ),
    case("a weight used in two ways", (3,), Both, 4),
    case("rows of all sequences", (2, 3), Rows, 8),
    case("a parametrised weight", (3,), lambda: nn.Sequential(weight_norm(nn.Linear(3, 4))), 4),
    case("a pruned linear layer", (3,), lambda: nn.Sequential(pruned(nn.Linear(3, 4)), nn.Tanh()), 4),
    case("a pruned one on sequences", (2, 3), lambda: nn.Sequential(pruned(nn.Linear(3, 4)), nn.Flatten()), 8),
    case("a pruned convolution", (2, 5, 5), lambda: nn.Sequential(pruned(nn.Conv2d(2, 3, 3)), nn.Flatten()), 27),
    case("a pruned layer norm", (3,), lambda: nn.Sequential(nn.Linear(3, 4), pruned(nn.LayerNorm(4))), 4),
    case("a normalised weight", (3,), lambda: nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Tanh()), 4),
    case("one on sequences", (2, 3), lambda: nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Flatten(), nn.Tanh()), 8),
    case("convolutions of normalised weights", (2, 5, 5), normalised_convolutions, 24),
    case("a standardised convolution", (2, 5, 5), lambda: nn.Sequential(Standardised(2, 3, 3), nn.Flatten()), 27),
    case("a position bias in windows", (4, 3), Windows, 12),
    case("a mask of attention", (2, 4), Masked, 8),
    case("an interpolated embedding", (3, 4), Interpolated, 12),
    case("torchvision's Swin", (3, 24, 24), lambda: small_swin(SwinTransformerBlock, PatchMerging), 16),
    case("torchvision's Swin V2", (3, 24, 24), lambda: small_swin(SwinTransformerBlockV2, PatchMergingV2), 16),
]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


@each(UNFIT)
def test_a_network_that_the_rules_do_not_fit_is_measured_exactly_and_named_once(case: Case) -> None:
    net, x = case.build(), case.images(N)
    with fallbacks() as lines:
        assert_exact(case, net, x)
        assert_exact(case, net, x, size=2)
    assert len(lines) == 1
    assert "Network: importances by torch.func, which is slower" in lines[0]
    with fallbacks() as lines:
        assert_exact(case, case.build(), x)
    assert len(lines) == 1


@each(SLOW)
def test_a_network_that_cannot_be_batched_goes_one_image_at_a_time_and_the_line_says_why(case: Case) -> None:
    net, x = case.build(), case.images(N)
    with fallbacks() as lines:
        assert_exact(case, net, x)
        assert_exact(case, net, x, size=2)
    (line,) = lines
    assert "Network: importances one image at a time, which is slow, since torch.func cannot batch it (" in line
    assert len(line) < 300
    for size in (1, N):
        assert_exact(case, case.build(), x, size)


@each(SLOW)
@pytest.mark.parametrize("importance", [MAS("batch_mean"), FIM(estimator="batch_mean")], ids=["mas", "fim"])
def test_the_released_estimator_takes_every_network(case: Case, importance: MAS | FIM) -> None:
    net, expert = case.build(), case.expert()
    with untouched(net, expert.state):
        omega = importance(net, expert, [(case.images(1), labels(1))])
    # The mean over a batch of one image is the image's own.
    close(omega, replace(importance, estimator="per_sample")(net, expert, [(case.images(1), labels(1))]))


@each(SEQUENCES)
@pytest.mark.filterwarnings("error")
def test_torch_warns_of_no_sequence(case: Case) -> None:
    with fallbacks() as lines:
        assert_exact(case, case.build(), case.images(N))
    assert len(lines) == 1


def test_a_network_that_branches_only_later_goes_one_image_at_a_time_from_then_on() -> None:
    begun: list[int] = []
    late = case(
        "late", (3,), lambda: nn.Sequential(nn.PReLU(3), Branching(lambda x: bool(begun) and x.sum().item() > 0)), 4
    )
    net, x = late.build(), late.images(N)
    with fallbacks() as lines:
        assert_exact(late, net, x)
        begun.append(1)
        assert_exact(late, net, x)
    assert len(lines) == 1
    assert "by torch.func" in lines[0]


@each(FIT)
def test_a_network_that_the_rules_fit_in_spite_of_its_ways_is_served_by_them(case: Case) -> None:
    with fallbacks() as lines:
        assert_exact(case, case.build(), case.images(N))
        assert_exact(case, case.build(), case.images(N), size=2)
    assert not lines


@each([UNFIT[0], REUSED, SLOW[0], SLOW[3], *SEQUENCES, *FIT[:6], FIT[8], *FIT[-9:]])
def test_a_network_is_left_alone(case: Case) -> None:
    net, expert = case.build(), case.expert()
    with untouched(net, expert.state):
        MAS()(net, expert, [(case.images(N), None)])


def test_the_line_names_the_layer_and_its_class() -> None:
    with fallbacks() as lines:
        MAS()(UNFIT[0].build(), UNFIT[0].expert(), [(UNFIT[0].images(2), None)])
    assert "body.1 is a PReLU, which has no rule" in lines[0]


def test_the_line_names_the_function_that_has_no_rule() -> None:
    matrix = case("a product", (3,), Matrix, 4)
    with fallbacks() as lines:
        MAS()(matrix.build(), matrix.expert(), [(matrix.images(2), None)])
    assert "matmul uses a weight that belongs to no layer in a way that has no rule" in lines[0]


def test_a_first_batch_of_one_image_does_not_hide_that_the_sample_is_not_first() -> None:
    case = Case("a sequence of one", (1, 3), lambda _: Network(SequenceFirst(), nn.Linear(4, CLASSES)))
    x = case.images(N)
    omega = mean_over_samples(case.build(), case.expert(), [(x[:1], None), (x[1:], None)], wave, 1)
    close(omega, mean_power(case.build(), case.expert(), x, wave, 1))


def test_gradients_of_0_do_not_hide_that_the_rules_do_not_fit() -> None:
    case = REUSED
    net, x = case.build(), case.images(N)
    FIM()(net, case.expert(task=ONE_CLASS), [(x, torch.full((N,), 3))])
    assert_exact(case, net, x)


def test_blank_images_do_not_hide_that_the_rules_do_not_fit() -> None:
    bias_free = case("without biases", (3,), Reused, 3)
    net, x = bias_free.build(), bias_free.images(N)
    state = {name: t * ("bias" not in name) for name, t in bias_free.expert().state.items()}
    x[:2] = 0
    omega = mean_over_samples(net, Expert(TASK, state), [(x, None)], wave, 2)
    close(omega, mean_power(bias_free.build(), Expert(TASK, state), x, wave, 2))


def test_an_expert_with_a_use_shut_off_does_not_hide_it_from_the_next() -> None:
    gated = case("gated", (3,), Gated, 3)
    net, x = gated.build(), gated.images(N)
    shut = gated.expert().state | {"body.gate": torch.zeros((), dtype=torch.float64)}
    mean_over_samples(net, Expert(TASK, shut), [(x, None)], wave, 1)
    assert_exact(gated, net, x)


@pytest.mark.parametrize("first", ["the hook", "a measurement"])
def test_a_hook_that_changes_an_output_is_heeded(first: str) -> None:
    plain = case("plain", (3,), lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()), 4)
    net, reference, x = plain.build(), plain.build(), plain.images(N)
    if first == "a measurement":
        MAS()(net, plain.expert(), [(x, None)])
    for network in (net, reference):
        network.body[0].register_forward_hook(lambda layer, inputs, y: y.flip(1).clone())
    omega = mean_over_samples(net, plain.expert(), [(x, None)], wave, 1)
    close(omega, mean_power(reference, plain.expert(), x, wave, 1))


def test_a_layer_that_becomes_another_after_a_measurement_is_found_out() -> None:
    plain = case("plain", (3,), lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()), 4)
    net, reference, x = plain.build(), plain.build(), plain.images(N)
    MAS()(net, plain.expert(), [(x, None)])
    for network in (net, reference):
        network.body[0].__class__ = Twofold
    omega = mean_over_samples(net, plain.expert(), [(x, None)], wave, 1)
    close(omega, mean_power(reference, plain.expert(), x, wave, 1))


def test_a_hook_that_uses_a_weight_again_is_found_out() -> None:
    def again(layer: nn.Module, inputs: tuple[Tensor], y: Tensor) -> Tensor:
        return y + linear(inputs[0], layer.weight)

    net, reference, x = MLP.build(), MLP.build(), MLP.images(N)
    for network in (net, reference):
        network.body[1].register_forward_hook(again)
    with fallbacks() as lines:
        omega = mean_over_samples(net, MLP.expert(), [(x, None)], wave, 1)
    assert len(lines) == 1
    close(omega, mean_power(reference, MLP.expert(), x, wave, 1))


class ScaleRule(Rule):
    """The bias's gradient is the output's itself."""

    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        return {"weight": a * d, "bias": d}


class HalfRule(ScaleRule):
    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        return {name: g / 2 for name, g in super().gradients(layer, buffers, a, d).items()}


class SwappedRule(ScaleRule):
    """The right numbers in the wrong places."""

    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        return {name: g.flip(1) for name, g in super().gradients(layer, buffers, a, d).items()}


OWN = case(
    "two layers of one's own",
    (3,),
    lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Scale(4), nn.Linear(4, 4), nn.Tanh(), Scale(4)),
    4,
)


def test_a_rule_of_ones_own_serves_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, Scale, ScaleRule())
    with fallbacks() as lines:
        assert_exact(OWN, OWN.build(), OWN.images(N))
    assert not lines


@pytest.mark.parametrize("rule", [HalfRule(), SwappedRule()], ids=["too small", "in the wrong places"])
def test_a_rule_that_is_wrong_is_found_out(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, Scale, rule)
    with fallbacks() as lines:
        assert_exact(OWN, OWN.build(), OWN.images(N))
    assert len(lines) == 1


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class HalfTemperatureRule(Rule):
    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        return {"weight": (a * d).sum(1, keepdim=True) / 2}


def test_a_rule_that_is_wrong_for_one_weight_among_millions_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, Temperature, HalfTemperatureRule())
    wide = [nn.Linear(3, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.ReLU(), nn.Linear(2000, 4)]
    large = case("large", (3,), lambda: nn.Sequential(*wide, Temperature(), nn.Tanh()), 4)
    with fallbacks() as lines:
        MAS()(large.build(), large.expert(), [(large.images(2), None)])
    assert len(lines) == 1


def test_images_that_must_be_positive_are_served_by_the_rules() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt()

    positive = case("positive", (3,), lambda: nn.Sequential(Root(), nn.Linear(3, 4), nn.Tanh()), 4)
    with fallbacks() as lines:
        assert_exact(positive, positive.build(), positive.images(N).abs())
    assert not lines


def test_batch_normalisation_without_running_statistics_is_refused() -> None:
    body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    net = Network(body, nn.Linear(4, CLASSES))
    with untouched(net), pytest.raises(InputError, match=r"^body\.1 normalises by the batch's own statistics"):
        MAS()(net, Expert(TASK, net.state_dict()), [(torch.randn(N, 3), None)])


@pytest.mark.parametrize("n", [1, 2, N])
def test_an_input_that_is_changed_after_its_layer_is_refused(n: int) -> None:
    net = Network(Spoiling(), nn.Linear(3, CLASSES))
    with untouched(net), pytest.raises(InputError, match=r"the input of body\.layer is changed in place"):
        MAS()(net, Expert(TASK, net.state_dict()), [(torch.randn(n, 3), None)])


def test_images_that_ask_for_a_gradient_get_none() -> None:
    x = MLP.images(N).requires_grad_()
    with fallbacks() as lines:
        omega = mean_over_samples(MLP.build(), MLP.expert(), [(x, None)], wave, 2)
    assert not lines
    assert x.grad is None
    close(omega, mean_power(MLP.build(), MLP.expert(), x, wave, 2))


def test_labels_are_read_by_the_fallback_too() -> None:
    case, y = UNFIT[0], labels(N)
    net, x = case.build(), case.images(N)

    def likelihood(logits: Tensor, column: Tensor) -> Tensor:
        return logits.log_softmax(-1)[column]

    expected = mean_power(case.build(), case.expert(), x, likelihood, 2, y - TASK.classes.start)
    close(FIM()(net, case.expert(), batches(x, y, 2)), expected)
