"""Any image classifier of timm, as a body that all tasks share and a head."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets.adapter import check_name, check_pass
from dua_lightning.nets.network import Network
from dua_lightning.nets.weights import load_tensors
from dua_lightning.streams import derive


def from_timm(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    weights: str = "none",
    folder: str | Path | None = None,
    **arguments: Any,
) -> Network:
    """Build a classifier of timm; the head takes the place of its last layer.

    The body is the network that timm makes for `num_classes=0`. It keeps timm's names, with `body.` in front.

    Args:
        name: Its name in timm, such as `vit_tiny_patch16_224`; timm's tag of pretrained weights may follow a dot.
        shape: The shape of one input, `(channels, height, width)`.
        classes: The number of columns of the head, which is always drawn.
        seed: The run's seed; weights are drawn from the stream `(seed, "weights")`.
        weights: `none` draws them as timm does, `imagenet` takes timm's pretrained weights of this name and tag, its
            first ones without a tag, and a path is that of a file, as in `load_weights`.
        folder: Pretrained weights are looked for here, and in its folder `weights`, as `NAME.TAG.safetensors`; those
            that are not there are downloaded to the cache of the Hugging Face Hub.
        **arguments: Further arguments of timm's `create_model`, such as `img_size=64` of a vision transformer.

    Returns:
        The network.

    Raises:
        InputError: timm is not installed, has no such network or weights or cannot make it with these arguments, the
            network does not take such inputs, or the weights cannot be had or do not fit.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"the network {name} needs the package timm ({error}); pip install 'dua_lightning[timm]'"
        ) from error
    check_name(name.partition(".")[0], timm.list_models(), "timm")
    given: dict[str, Any] = {"in_chans": shape[0], "num_classes": 0, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        try:
            pretrained = _pretrained(name, timm.get_pretrained_cfg(name), folder) if weights == "imagenet" else {}
            body: Any = timm.create_model(name, **given, **pretrained)
        except (OSError, RuntimeError) as error:
            # The hub, a file, or a tag that there is not.
            reason = " ".join(str(error).split())
            step = "; use weights=PATH or weights=none" if weights == "imagenet" else ""
            raise InputError(f"timm cannot make {name} with weights={weights}: {reason}{step}") from error
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            raise InputError(f"timm cannot make {name} with {arguments}: {error}") from error
        net = Network(body, nn.Linear(body.head_hidden_size, classes), torch.channels_last)
    if weights not in ("none", "imagenet"):
        load_tensors(net.body, name, weights, Path(weights))
    check_pass(net, shape, name)
    return net


def _pretrained(name: str, published: Any, folder: str | Path | None) -> dict[str, Any]:
    """The arguments by which timm takes its pretrained weights, from a file of the folder if it is there."""
    if published is None or not published.has_weights:
        raise RuntimeError("it has no pretrained weights")
    file = f"{name.partition('.')[0]}.{published.tag}.safetensors"
    places = [] if folder is None else [Path(folder) / file, Path(folder) / "weights" / file]
    found = next((str(path) for path in places if path.is_file()), None)
    return {"pretrained": True, "pretrained_cfg_overlay": found and {"file": found, "custom_load": False}}
