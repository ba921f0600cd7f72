"""A VGG11-BN for small pictures, trained on Tiny ImageNet or on folders of pictures: weights to start experts from.

    python experiments/pretraining/pretrain.py tiny-imagenet-200 [--width 0.125] [--epochs 12] [--seed 1] [--out FOLDER]
    python experiments/pretraining/pretrain.py FOLDER --data NAME --stored 104 --crop 96 --width 1 --pooled 3

Without options these are the weights that come with the package. Tiny ImageNet's folder is the official one, as it
comes out of its archive. Any other has a folder of pictures for each class, of which every tenth validates. The
accuracy on validation pictures is reported; nothing is chosen by it.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save
from torch import Tensor, nn

from dua_lightning.data.decode import decoded
from dua_lightning.data.images import Images, images
from dua_lightning.data.pool import IMAGENET_MEAN, IMAGENET_STD
from dua_lightning.data.server import ServerTask
from dua_lightning.nets import vgg11_bn
from dua_lightning.run.provenance import environment
from dua_lightning.store.files import file_sha256, replacing
from dua_lightning.tasks import Batch, Task
from dua_lightning.training.module import ExpertModule

BATCH = 128
TINY_IMAGENET = "Tiny ImageNet (Stanford CS231n)"
LICENCE = (
    f"Trained on {TINY_IMAGENET}, a part of ImageNet in small, whose pictures are for non-commercial "
    "research and education. These weights are for research."
)

Listed = tuple[list[Path], list[str]]
"""Pictures and the names of their classes."""


class Smoothed(ExpertModule):
    """An expert whose loss smooths the labels."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        assert y is not None
        loss = nn.functional.cross_entropy(self(x), y, label_smoothing=0.1)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


def tiny_imagenet(root: Path) -> tuple[Listed, Listed]:
    """Training and validation pictures of the official folder."""
    training = sorted((root / "train").glob("*/images/*"))
    lines = [line.split("\t") for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
    validation = [root / "val" / "images" / line[0] for line in lines], [line[1] for line in lines]
    return (training, [path.parent.parent.name for path in training]), validation


def folders(root: Path) -> tuple[Listed, Listed]:
    """Training and validation pictures of a folder for each class."""
    found = [sorted(folder.iterdir()) for folder in sorted(root.iterdir())]
    training = [path for paths in found for number, path in enumerate(paths) if number % 10]
    validation = [path for paths in found for path in paths[::10]]
    return (training, [path.parent.name for path in training]), (validation, [path.parent.name for path in validation])


def pictures(sides: tuple[Listed, Listed], root: Path, cache: Path, stored: int, crop: int) -> tuple[Images, Images]:
    """Training and validation pictures, decoded once."""
    classes = {name: number for number, name in enumerate(sorted(set(sides[0][1])))}
    made = []
    for paths, names in sides:
        pixels, _ = decoded(paths, root, stored, cache, upright=False, skip_unreadable=False)
        labels = torch.tensor([classes[name] for name in names])
        made.append(images(pixels, labels, torch.arange(len(paths)), IMAGENET_MEAN, IMAGENET_STD, crop))
    return made[0], made[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", default=TINY_IMAGENET, help="what the pictures are, for the file's metadata")
    parser.add_argument("--stored", type=int, default=40, help="side of the pictures in memory, in pixels")
    parser.add_argument("--crop", type=int, default=32, help="side of the cuts that the network sees, in pixels")
    parser.add_argument("--pooled", type=int, default=1, help="side of the feature map that the classifier sees")
    # A network as narrow as that of the package cannot learn the pictures by heart in a dozen epochs.
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("outputs/pretraining"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    seed_everything(given.seed)
    sides = tiny_imagenet(given.root) if (given.root / "val" / "val_annotations.txt").is_file() else folders(given.root)
    training, validation = pictures(sides, given.root, given.out / "pictures", given.stored, given.crop)
    classes = len(set(sides[0][1]))
    # Batches are drawn from the stream of this name.
    task = Task("tiny_imagenet", slice(0, classes))
    data = ServerTask(task, training, validation, BATCH, given.seed, augment=True)
    net = vgg11_bn((3, given.crop, given.crop), classes, given.seed, given.width, pooled=given.pooled)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = given.dropout
    expert = Smoothed(
        net,
        task,
        lambda parameters: torch.optim.SGD(parameters, given.lr, momentum=0.9, weight_decay=5e-4, nesterov=True),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.epochs),
        given.seed,
    )
    # Validated once, at the end: no epoch is chosen.
    log = CSVLogger(given.out, flush_logs_every_n_steps=1)
    on = {"accelerator": given.accelerator, "devices": 1}
    trainer = Trainer(**on, max_epochs=given.epochs, logger=log, limit_val_batches=0)
    trainer.fit(expert, datamodule=data)
    # Rounded before it is tested, so that the accuracy is that of the file.
    rounded = {name: t.bfloat16() if t.is_floating_point() else t for name, t in net.body.state_dict().items()}
    net.body.load_state_dict(rounded)
    accuracy = trainer.test(expert, datamodule=data, verbose=False)[0]["test_accuracy"]
    metadata = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": str(environment()["git_commit"]),
        "data": given.data,
        "accuracy": f"{accuracy:.2f} % of the validation pictures, {classes} classes",
        "licence": LICENCE if given.data == TINY_IMAGENET else f"For research; trained on {given.data}.",
    }
    unnamed = given.out / "vgg11_bn.safetensors"
    with replacing(unnamed) as temporary:
        temporary.write_bytes(save(rounded, metadata))
    digest = file_sha256(unnamed)
    path = unnamed.rename(given.out / f"vgg11_bn_w{given.width}-{digest[:8]}.safetensors")
    print(f"{path}: {path.stat().st_size} bytes, accuracy {accuracy:.2f} %\nsha256 {digest}")


if __name__ == "__main__":
    main()
