"""Attacks on a user's prior, on embedded digits: what each gets, against the number of images, beside its controls.

    python experiments/privacy/attacks.py [--sizes 1 2 5] [--users 6] [--jobs 2] [--out DIR]

One task of ten digits, small networks trained on 1,000 pictures of the server. A user has n other pictures, in
shares of classes of their own, and sends the importance of one expert. The server attacks it with all that it knows and
1,000 more pictures. `attacks.csv` has the mean over users of each score with its 95 % t interval, `pictures.png` a
user's pictures beside what comes back, `success.png` the scores against the number of pictures.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

# Waiting threads must not spin where other programs want the cores; read when torch is loaded.
os.environ["GOMP_SPINCOUNT"] = "10000"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dua_lightning.adapt import AdaBN
from dua_lightning.data.digits import COLOUR, GREY, USER_PHOTOGRAPHS, blend, mnist_subset, photograph
from dua_lightning.data.images import images
from dua_lightning.importance import FIM, MAS, Averaged, Importance, Noise, averaged
from dua_lightning.importance.averaged import Level
from dua_lightning.nets import Network, mlp
from dua_lightning.privacy.attacks import (
    ClassPrior,
    Known,
    auc,
    channel_means,
    correlations,
    coverage,
    factorise,
    invert,
    matched,
    mean_features,
    patches,
    statistics_features,
    t_interval,
    total_variation,
)
from dua_lightning.store.files import replacing, write_text
from dua_lightning.streams import derive, generator
from dua_lightning.tasks import Expert, Task

SIZES = (1, 2, 5, 10, 20, 50, 100, 500)
INVERTED = (1, 2, 4)
"""Numbers of pictures that gradient inversion is tried on: each of its steps differentiates all their gradients."""
MOST_INVERTED = 4
"""Users whose pictures are searched so."""
SIMULATED = 60
"""Users that the server simulates for each number of pictures."""
CANDIDATES = 15
"""Pictures of the user, and as many others, whose membership is asked."""
CLASSES = 10
TASK = Task("digits", slice(0, CLASSES))
SHAPE = (3, 28, 28)
LEVELS: tuple[Level, ...] = get_args(Level)[:3]
IMPORTANCES: dict[str, Importance] = {"MAS": MAS(), "FIM": FIM()}
PATIENT, HASTY = 600, 80
"""Iterations of a factorisation into at most 20 parts, and into more."""
RECOVERED = 0.9
"""The correlation from which a picture counts as recovered."""

Line = dict[str, Any]
"""One score of one user."""


@dataclass(frozen=True)
class Pictures:
    """Pictures as the network reads them, and their labels."""

    x: Tensor
    y: Tensor

    def __getitem__(self, index: Tensor | slice) -> "Pictures":
        return Pictures(self.x[index], self.y[index])

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        return self.x, self.y

    @property
    def shares(self) -> np.ndarray:
        return np.bincount(self.y.numpy(), minlength=CLASSES) / len(self.y)


@cache
def divided() -> dict[str, Tensor]:
    """The places of the digits that train, that the server keeps, and that users have: 100, 100 and 300 of a class."""
    labels = mnist_subset()[1]
    sides: dict[str, list[Tensor]] = {"training": [], "public": [], "users": []}
    for label in range(CLASSES):
        of_class = (labels == label).nonzero()[:, 0]
        order = of_class[torch.randperm(len(of_class), generator=generator(1, "privacy", label))]
        for side, part in zip(sides.values(), order.split([100, 100, 300]), strict=True):
            side.append(part)
    return {name: torch.cat(parts) for name, parts in sides.items()}


@cache
def pictures(side: str) -> Pictures:
    grey, labels = mnist_subset()
    index = divided()[side]
    return Pictures(images(grey[index], labels[index], index, *GREY).inputs(), labels[index])


def user(number: int, size: int) -> tuple[Pictures, Pictures]:
    """The pictures of a user, and as many of the same classes that belong to somebody else."""
    stream = np.random.default_rng(derive(1, "user", number))
    shares = stream.dirichlet(np.ones(CLASSES))
    while shares.max() > 0.27:
        # 300 pictures of a class must do for 500 of the user's, and as many others.
        shares = stream.dirichlet(np.ones(CLASSES))
    counts = np.random.default_rng(derive(1, "counts", number, size)).multinomial(size, shares)
    labels = pictures("users").y
    own, others = [], []
    for label, count in enumerate(counts.clip(max=150)):
        of_class = (labels == label).nonzero()[:, 0]
        order = of_class[torch.randperm(len(of_class), generator=generator(1, "pictures", number, label))]
        own.append(order[:count])
        others.append(order[count : 2 * count])
    return pictures("users")[torch.cat(own)], pictures("users")[torch.cat(others)]


@cache
def simulated(size: int) -> list[Pictures]:
    """Users that the server makes of its own pictures."""
    stream, public = np.random.default_rng(derive(1, "simulated", size)), pictures("public")
    found = []
    for _ in range(SIMULATED):
        chance = stream.dirichlet(np.ones(CLASSES))[public.y.numpy()]
        index = stream.choice(len(public.y), size, p=chance / chance.sum())
        found.append(public[torch.from_numpy(index)])
    return found


def convolutional() -> Network:
    """Two convolutions with batch normalisation, and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(1, "weights"))
        body = nn.Sequential(
            *(nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 5, 2, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU()),
        )
        return Network(body, nn.Linear(64, CLASSES))


def small() -> Network:
    """Two convolutions for 7x7 pixels, which gradient inversion can manage in seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(1, "weights"))
        body = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()),
            nn.Flatten(),
        )
        return Network(body, nn.Linear(8 * 4 * 4, CLASSES))


NETS: dict[str, Callable[[], Network]] = {
    "mlp": lambda: mlp(SHAPE, CLASSES, 1),
    "conv": convolutional,
    "small conv": small,
}


def seen_by(network: str, data: Pictures) -> Pictures:
    """Pictures of the size that a network takes: in grey, each pixel the mean of 4x4 for the small one."""
    return data if network != "small conv" else Pictures(nn.functional.avg_pool2d(data.x[:, :1], 4), data.y)


@cache
def trained(name: str) -> tuple[nn.Module, Expert]:
    """A network and its expert: five epochs of Adam, in batches of 20."""
    net, data, scored = NETS[name](), *(seen_by(name, pictures(side)) for side in ("training", "users"))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for epoch in range(5):
        for index in torch.randperm(len(data.y), generator=generator(1, "epoch", epoch)).split(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(data.x[index]), data.y[index]).backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        accuracy = (net(scored.x).argmax(1) == scored.y).double().mean()
    print(f"{name}: {100 * accuracy:.1f} % of users' pictures right", flush=True)
    return net, Expert(TASK, net.state_dict())


def known(network: str, importance: str, data: Pictures, noise: bool = False) -> Known:
    """A user's message, and what the server knows."""
    net, expert = trained(network)
    psi = IMPORTANCES[importance]
    prior = (Noise(psi) if noise else psi)(net, expert, [data.batch])
    return Known(net, expert, psi, prior, len(data.y))


def at(message: Known, level: Level) -> Known:
    if level == "weight":
        return message
    return replace(message, importance=Averaged(message.importance, level), prior=averaged(message.prior, level))


def pictures_back(guesses: Tensor, own: Tensor) -> Line:
    """The scores of guesses of pictures, or of what a layer reads."""
    found = matched(correlations(guesses, own))[0]
    return {"correlation": found.mean(), "best": found.max(), "recovered": 100 * (found >= RECOVERED).mean()}


def lines(
    attack: str, network: str, name: str, who: int, message: Known, level: Level, scores: dict[str, Line]
) -> Iterator[Line]:
    """A line for each score of an attack and of its controls."""
    where = {"attack": attack, "network": network, "importance": name, "level": level}
    where |= {"images": message.images, "user": who}
    for what, line in scores.items():
        for score, value in line.items():
            yield where | {"what": what, "score": score, "value": float(value)}


def read_by(message: Known, layer: str, x: Tensor) -> Tensor:
    """The inputs of a layer for each picture, flat."""
    found: list[Tensor] = []
    hook = message.net.get_submodule(layer).register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with hook, torch.no_grad():
        message.net(x)
    return found[0].flatten(1)


def factorised(message: Known, layer: str) -> Tensor:
    """The guesses of what a layer read."""
    return factorise(message, layer, PATIENT if message.images <= 20 else HASTY).inputs


def factorisation(message: Known, of_noise: Tensor, own: Pictures, others: Pictures, layer: str) -> dict[str, Line]:
    """A layer that reads one vector for each picture."""
    truth, other = (read_by(message, layer, data.x).abs() for data in (own, others))
    public = read_by(message, layer, pictures("public").x).abs()
    means = torch.stack([public[pictures("public").y == label].mean(0) for label in own.y.unique()])
    nearest = torch.from_numpy(correlations(means, truth).max(0))
    guesses = factorised(message, layer)
    return {
        "attack": pictures_back(guesses, truth),
        "the same guesses, another user's pictures": pictures_back(guesses, other),
        "psi of noise": pictures_back(of_noise, truth),
        "another user's pictures as guesses": pictures_back(other, truth),
        "class mean": {
            "correlation": nearest.mean(),
            "best": nearest.max(),
            "recovered": 100 * (nearest >= RECOVERED).double().mean(),
        },
    }


def texture(message: Known, own: Pictures, others: Pictures) -> dict[str, Line]:
    """A convolution's factors, each beside the patch that is most like it."""
    factors = factorise(message, "body.0")

    def score(data: Pictures) -> Line:
        cut = patches(message.net, factors.layer, [data.x])
        # The border and empty places have patches of one number.
        found = correlations(factors.inputs, cut[cut.std(1) > 0].abs()).max(1)
        return {"correlation": found.mean(), "best": found.max()}

    return {"attack": score(own), "the same guesses, another user's pictures": score(others)}


def membership(message: Known, control: dict[str, Known], own: Pictures, others: Pictures) -> dict[str, Line]:
    """The area under the ROC curve of the coverage of members and others; 0.5 is chance."""

    def score(known: Known) -> Line:
        stream = torch.randperm(len(own.y), generator=generator(1, "candidates"))[:CANDIDATES]
        # A user of a few pictures has too few others of the same classes for a rate.
        more = pictures("public")[:: len(pictures("public").y) // CANDIDATES]
        rest = others[stream] if len(stream) == CANDIDATES else more
        return {"AUC": auc(coverage(known, own[stream].batch), coverage(known, rest.batch)).area}

    return {"attack": score(message)} | {name: score(known) for name, known in control.items()}


def inverted(size: int, users: int) -> list[Line]:
    """Pictures whose importances are those that were sent; the labels are given."""
    network, found = "small conv", []
    for name in IMPORTANCES:
        blank = known(network, name, seen_by(network, user(0, size)[0]), noise=True)
        labels = user(0, size)[0].y
        of_noise = invert(blank, (1, 7, 7), generator(1, "start"), labels)
        for who in range(users):
            own, others = (seen_by(network, data) for data in user(who, size))
            message = known(network, name, own)
            for level in LEVELS if (name, size) == ("MAS", 1) else LEVELS[:1]:
                sent = at(message, level)
                guesses = invert(sent, (1, 7, 7), generator(1, "start"), own.y)
                scores = {
                    "attack": pictures_back(guesses, own.x),
                    "the same guesses, another user's pictures": pictures_back(guesses, others.x),
                    "psi of noise": pictures_back(of_noise, own.x),
                    "another user's pictures as guesses": pictures_back(others.x, own.x),
                }
                found += lines("inversion", network, name, who, sent, level, scores)
    return found


def attacked(network: str, name: str, size: int, users: int) -> Iterator[Line]:
    """All attacks on the priors of some users."""
    noise = known(network, name, user(0, size)[0], noise=True)
    layer = {"mlp": "body.1", "conv": "body.7"}[network]
    of_noise, learners = factorised(noise, layer), class_priors(network, name, size)
    for who in range(users):
        own, others = user(who, size)
        message = known(network, name, own)
        attack = "factorisation" if network == "mlp" else "factorisation of features"
        found = factorisation(message, of_noise, own, others, layer)
        yield from lines(attack, network, name, who, message, "weight", found)
        if network == "conv":
            yield from lines("patches", network, name, who, message, "weight", texture(message, own, others))
        foreign = known(network, name, user(users + who, size)[0])
        for level in LEVELS:
            sent = at(message, level)
            control = {"psi of noise": noise, "another user's psi": foreign} if level == "weight" else {}
            found = membership(sent, control, own, others)
            yield from lines("membership", network, name, who, sent, level, found)
            learner, guess = learners[level], learners[level].guess
            priors = {"attack": sent.prior, "psi of noise": at(noise, level).prior}
            distances = {what: total_variation(guess(mean_features(p)), own.shares) for what, p in priors.items()}
            distances["mean of the simulated users"] = total_variation(learner.mean, own.shares)
            scores = {what: {"total variation": distance} for what, distance in distances.items()}
            yield from lines("class shares", network, name, who, sent, level, scores)


def class_priors(network: str, name: str, size: int) -> dict[Level, ClassPrior]:
    """A learner for each level, from users that the server simulates."""
    sent = [known(network, name, data) for data in simulated(size)]
    shares = np.stack([data.shares for data in simulated(size)])
    return {level: ClassPrior([mean_features(at(one, level).prior) for one in sent], shares) for level in LEVELS}


def statistics(size: int, users: int) -> Iterator[Line]:
    """Mean colours and shares of classes from the statistics of AdaBN, for users over a photograph each."""
    net, expert = trained("conv")

    def taken(x: Tensor) -> dict[str, Tensor]:
        return AdaBN()(net, expert.state, TASK, [(x, None)])

    learner = ClassPrior(
        [statistics_features(net, taken(data.x)) for data in simulated(size)],
        np.stack([data.shares for data in simulated(size)]),
    )
    blank = taken(torch.randn(size, *SHAPE, generator=generator(1, "noise")))
    means = [coloured(who, size).mean((0, 2, 3)) for who in range(users)]
    for who in range(users):
        own = user(who, size)[0]
        where = {"network": "conv", "importance": "AdaBN", "level": "statistics", "images": size, "user": who}
        shares = {
            "attack": learner.guess(statistics_features(net, taken(own.x))),
            "psi of noise": learner.guess(statistics_features(net, blank)),
            "mean of the simulated users": learner.mean,
        }
        for what, guess in shares.items():
            line = {"attack": "class shares", "what": what, "score": "total variation"}
            yield where | line | {"value": total_variation(guess, own.shares)}
        colours = {
            "attack": channel_means(net, taken(coloured(who, size)), SHAPE),
            "another user's statistics": means[(who + 1) % users],
            "mean of the other users": torch.stack([m for other, m in enumerate(means) if other != who]).mean(0),
        }
        for what, guess in colours.items():
            # A pixel of 255 is 1 / 0.5 of the network's input.
            error = 255 * COLOUR[1] * (guess - means[who]).square().mean().sqrt()
            yield where | {"attack": "mean colour", "what": what, "score": "error of 255", "value": float(error)}


def coloured(who: int, size: int) -> Tensor:
    """A user's digits over patches of one photograph."""
    grey, labels = mnist_subset()
    index = divided()["users"]
    index = index[torch.randperm(len(index), generator=generator(1, "coloured", who))[:size]]
    names = (*USER_PHOTOGRAPHS, *MORE_PHOTOGRAPHS)
    pixels = blend(grey[index], [photograph(names[who % len(names)])], generator(1, "blend", who))
    return images(pixels, labels[index], index, *COLOUR).inputs()


MORE_PHOTOGRAPHS = ("coffee", "chelsea", "rocket", "retina", "cat")
"""Photographs of users beside those of the package's benchmark."""


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over users and its interval."""
    keys = ["attack", "network", "importance", "level", "images", "what", "score"]
    found = []
    for key, group in table.groupby(keys, sort=False):
        mean, low, high = t_interval(group["value"].tolist())
        found.append(dict(zip(keys, key, strict=True)) | {"mean": mean, "low": low, "high": high, "users": len(group)})
    return pd.DataFrame(found)


def draw_pictures(path: Path) -> None:
    """Five of a user's pictures, and the guess that is matched with each, for some numbers of pictures."""
    sizes = [1, 5, 10, 20, 50]
    figure, grid = plt.subplots(2 * len(sizes), 10, figsize=(9, 11), layout="constrained")
    for line, size in enumerate(sizes):
        own = user(0, size)[0]
        for half, name in enumerate(IMPORTANCES):
            message = known("mlp", name, own)
            guesses = factorised(message, "body.1")
            found, places = matched(correlations(guesses, own.x.abs()))
            chosen = generator(1, "shown")
            for column, k in enumerate(torch.randperm(size, generator=chosen)[:5].tolist()):
                shown = (own.x[k].abs(), guesses[places[k]].view(SHAPE))
                for row, picture in enumerate(shown):
                    axes = grid[2 * line + row, 5 * half + column]
                    axes.imshow(picture.mean(0), cmap="gray")
                    if row:
                        axes.set_title(f"{found[k]:.2f}", fontsize=8, pad=2)
            grid[2 * line, 5 * half].set_title(f"{name}, n = {size}: the user's", fontsize=8, loc="left")
    for axes in grid.flat:
        axes.axis("off")
    figure.suptitle("A user's pictures, and below each what its importance gives back (correlation)", fontsize=11)
    save(figure, path)


PANELS = (
    ("factorisation", "mlp", "recovered", "Pictures recovered from the MLP, %"),
    ("membership", "mlp", "AUC", "Membership, MLP: area under the ROC curve"),
    ("class shares", "mlp", "total variation", "Shares of classes, MLP: total variation (less is a better guess)"),
    ("factorisation of features", "conv", "recovered", "Features of the convolutional network recovered, %"),
    ("membership", "conv", "AUC", "Membership, convolutional network"),
    ("class shares", "conv", "total variation", "Shares of classes, convolutional network"),
)


def draw_success(table: pd.DataFrame, path: Path) -> None:
    """Scores against the number of pictures; solid the attack, dotted its controls."""
    figure, grid = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    for axes, (attack, network, score, title) in zip(grid.flat, PANELS, strict=True):
        some = table[(table[["attack", "network", "score"]] == [attack, network, score]).all(axis=1)]
        some = some[some["importance"] != "AdaBN"]
        groups = some.groupby(["importance", "level", "what"], sort=False)
        for k, ((importance, level, what), group) in enumerate(groups):
            succeeds = what == "attack"
            if not succeeds and (importance, level) != ("MAS", "weight"):
                continue
            label = f"{importance}, by {level}" if succeeds else f"control (MAS): {what}"
            style = {"color": f"C{k % 10}", "ls": "-" if succeeds else ":", "marker": "o" if succeeds else None}
            axes.plot(group["images"], group["mean"], label=label, ms=3, **style)
            if succeeds:
                axes.fill_between(group["images"], group["low"], group["high"], color=style["color"], alpha=0.15)
        axes.set(xscale="log", xlabel="pictures of the user")
        axes.set_title(title, loc="left", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, frameon=False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


def of_network(network: str, name: str, size: int, users: int) -> list[Line]:
    return list(attacked(network, name, size, users))


def of_statistics(size: int, users: int) -> list[Line]:
    return list(statistics(size, users))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--users", type=int, default=6, help="users of each number of pictures, at least 2")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of a thread each")
    parser.add_argument("--out", type=Path, default=Path("outputs/privacy"))
    given = parser.parse_args()
    sizes, users = given.sizes, given.users
    began = time.monotonic()
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        parts = {}
        for size in sizes:
            for network, name in product(("mlp", "conv"), IMPORTANCES):
                parts[pool.submit(of_network, network, name, size, users)] = f"{network}, {name}, n = {size}"
            parts[pool.submit(of_statistics, size, users)] = f"statistics, n = {size}"
            if size in INVERTED:
                parts[pool.submit(inverted, size, min(users, MOST_INVERTED))] = f"inversion, n = {size}"
        for part in as_completed(parts):
            # A run that is stopped leaves the table of what it has, in the order in which it was asked for.
            done = [line for one in parts if one.done() for line in one.result()]
            table = summary(pd.DataFrame(done))
            write_text(given.out / "attacks.csv", table.round(4).to_csv(index=False))
            print(f"{parts[part]}: {time.monotonic() - began:.0f} s since the start", flush=True)
    draw_pictures(given.out / "pictures.png")
    draw_success(table, given.out / "success.png")
    shown = table.query("what == 'attack'").drop(columns="what")
    print(shown.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
