"""The engine on small networks of timm's, against one backward pass for each image; skipped where timm is not there."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.nets import from_timm
from tests.helpers.nets import CLASSES, Case, batches, close
from tests.importance.engine import fallbacks
from tests.reference.power_loop import mean_power

pytest.importorskip("timm")

SWIN = {"img_size": 64, "depths": (2, 2), "num_heads": (3, 3), "window_size": 4}
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "vit_tiny_patch16_224": (48, {"img_size": 48, "depth": 2}),
    "swin_tiny_patch4_window7_224": (64, {**SWIN, "embed_dim": 24}),
    "swinv2_tiny_window8_256": (64, {**SWIN, "embed_dim": 24}),
    "beit_base_patch16_224": (32, {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 4}),
    "eva02_tiny_patch14_224": (28, {"img_size": 28, "depth": 2}),
    "cait_xxs24_224": (32, {"img_size": 32, "depth": 2}),
    "convnext_atto": (32, {"depths": (1, 1, 1, 1)}),
    "mobilenetv3_small_050": (32, {}),
    "resnet18": (32, {}),
    "efficientnet_lite0": (32, {}),
    "resnetv2_50": (32, {"layers": (1, 1, 1, 1)}),
    "nf_resnet26": (32, {}),
}


def wave(logits: Tensor, _: Tensor) -> Tensor:
    return logits.sin().sum(-1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm_is_measured_exactly_and_by_the_rules(name: str) -> None:
    side, arguments = NETWORKS[name]
    case = Case(name, (3, side, side), lambda seed: from_timm(name, (3, side, side), CLASSES, seed, **arguments))
    net, expert, x = case.build(), case.expert(), case.images(3)
    with fallbacks() as lines:
        for power, size in ((1, 3), (2, 2)):
            omega = mean_over_samples(net, expert, batches(x.clone(), None, size), wave, power)
            close(omega, mean_power(case.build(), expert, x, wave, power))
    assert not lines


def test_an_embedding_that_timm_interpolates_in_single_precision_is_measured_to_it() -> None:
    vit = {"img_size": 48, "depth": 1, "dynamic_img_size": True}
    case = Case("vit", (3, 64, 64), lambda seed: from_timm("vit_tiny_patch16_224", (3, 64, 64), CLASSES, seed, **vit))
    with fallbacks() as lines:
        omega = mean_over_samples(case.build(), case.expert(), [(case.images(2), None)], wave, 1)
    assert not lines
    expected = mean_power(case.build(), case.expert(), case.images(2), wave, 1)
    torch.testing.assert_close(omega, expected, rtol=1e-5, atol=1e-7)
