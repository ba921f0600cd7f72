"""Figure 2: the ten transforms, at every severity, on a photograph of scikit-image or on a picture of your own.

python experiments/figure2/gallery.py [PICTURE] [--constants imagenet_c] [--size 224] [--out figure2.png]
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from dua_lightning.data.corruptions import NAMES, corrupt
from dua_lightning.data.decode import decode
from dua_lightning.data.digits import photograph
from dua_lightning.store.files import replacing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, help="a picture; by default scikit-image's cup of coffee")
    parser.add_argument("--constants", default="tiny_imagenet_c", choices=["tiny_imagenet_c", "imagenet_c"])
    parser.add_argument("--size", type=int, default=224, help="side of the square that is cut from it, in pixels")
    parser.add_argument("--out", type=Path, default=Path("outputs/figure2.png"))
    given = parser.parse_args()
    if given.picture is None:
        photo = torch.nn.functional.interpolate(photograph("coffee")[None, :, :, 100:500].float(), size=given.size)[0]
        pixels = photo.byte()[None]
    else:
        pixels = torch.from_numpy(decode(given.picture, given.size, upright=True))[None]
    figure, grid = plt.subplots(5, len(NAMES), figsize=(1.5 * len(NAMES), 8), layout="constrained")
    for column, name in enumerate(NAMES):
        for row, axes in enumerate(grid[:, column]):
            seen = corrupt(name, pixels, row + 1, torch.tensor([0]), seed=1, user=name, constants=given.constants)
            axes.imshow(seen[0].permute(1, 2, 0).numpy())
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(name, fontsize=9)
            if column == 0:
                axes.set_ylabel(f"severity {row + 1}")
    with replacing(given.out) as temporary:
        figure.savefig(temporary, dpi=90)
    print(given.out)


if __name__ == "__main__":
    main()
