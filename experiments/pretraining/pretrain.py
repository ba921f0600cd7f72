"""A narrow VGG11-BN for small pictures, trained on Tiny ImageNet: the weights that come with the package.

    python experiments/pretraining/pretrain.py tiny-imagenet-200 [--width 0.125] [--epochs 12] [--seed 1] [--out FOLDER]

The folder is the official one, as it comes out of its archive. The accuracy on its validation pictures is reported;
nothing is chosen by it.
"""

import argparse
import shlex
import subprocess
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
from dua_lightning.store.files import file_sha256, replacing
from dua_lightning.tasks import Batch, Task
from dua_lightning.training.module import ExpertModule

STORED, CROP = 40, 32
"""Sides of the pictures in memory and of the cuts that the network sees, in pixels."""
BATCH = 128
LICENCE = (
    "Trained on Tiny ImageNet (Stanford CS231n), a part of ImageNet in small, whose pictures are for non-commercial "
    "research and education. These weights are for research."
)


class Smoothed(ExpertModule):
    """An expert whose loss smooths the labels."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y, label_smoothing=0.1)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


def pictures(root: Path, cache: Path, of_class: int) -> tuple[Images, Images]:
    """Training and validation pictures of the official folder, decoded once."""
    wnids = sorted(folder.name for folder in (root / "train").iterdir())
    of_training = [path for wnid in wnids for path in sorted((root / "train" / wnid / "images").iterdir())[:of_class]]
    lines = [line.split("\t") for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
    sides = (
        (of_training, [path.parent.parent.name for path in of_training]),
        ([root / "val" / "images" / line[0] for line in lines], [line[1] for line in lines]),
    )
    made = []
    for paths, names in sides:
        pixels, _ = decoded(paths, root, STORED, cache, upright=False, skip_unreadable=False)
        labels = torch.tensor([wnids.index(name) for name in names])
        made.append(images(pixels, labels, torch.arange(len(paths)), IMAGENET_MEAN, IMAGENET_STD, CROP))
    return made[0], made[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures-of-class", type=int, default=500, help="fewer make a short trial")
    parser.add_argument("--out", type=Path, default=Path("outputs/pretraining"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    seed_everything(given.seed)
    training, validation = pictures(given.root, given.out / "pictures", given.pictures_of_class)
    task = Task("tiny_imagenet", slice(0, 200))
    data = ServerTask(task, training, validation, BATCH, given.seed, augment=True)
    net = vgg11_bn((3, CROP, CROP), 200, given.seed, given.width, pooled=1)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            # A network this narrow cannot learn the pictures by heart in a dozen epochs.
            module.p = 0.0
    expert = Smoothed(
        net,
        task,
        lambda parameters: torch.optim.SGD(parameters, given.lr, momentum=0.9, weight_decay=5e-4, nesterov=True),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.epochs),
        given.seed,
    )
    # Validated once, at the end: no epoch is chosen.
    log = CSVLogger(given.out, flush_logs_every_n_steps=1)
    trainer = Trainer(accelerator="cpu", max_epochs=given.epochs, logger=log, limit_val_batches=0)
    trainer.fit(expert, datamodule=data)
    # Rounded before it is tested, so that the accuracy is that of the file.
    rounded = {name: t.bfloat16() if t.is_floating_point() else t for name, t in net.body.state_dict().items()}
    net.body.load_state_dict(rounded)
    accuracy = trainer.test(expert, datamodule=data, verbose=False)[0]["test_accuracy"]
    here = Path(__file__).parent
    metadata = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=here, text=True).strip(),
        "data": "Tiny ImageNet (Stanford CS231n)",
        "accuracy": f"{accuracy:.2f} % of the official validation pictures, 200 classes",
        "licence": LICENCE,
    }
    unnamed = given.out / "vgg11_bn.safetensors"
    with replacing(unnamed) as temporary:
        temporary.write_bytes(save(rounded, metadata))
    digest = file_sha256(unnamed)
    path = unnamed.rename(given.out / f"vgg11_bn_w{given.width}-{digest[:8]}.safetensors")
    print(f"{path}: {path.stat().st_size} bytes, accuracy {accuracy:.2f} %\nsha256 {digest}")


if __name__ == "__main__":
    main()
