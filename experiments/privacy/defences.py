"""The cost and the use of each release: accuracy of the merged model, bytes, epsilon, and what an attack still gets.

    python experiments/privacy/defences.py OUT RUN

RUN is the folder of a run of `method=releases` on digits, whose experts the store still has. OUT gets `defences.csv`.

Accuracies are the run's. Differences to MAS-RACL sent as measured are paired by seed and user; the intervals are 95 % t
intervals over seeds, of each seed's mean over users, and over users, of each user's mean over seeds.

The attack factorises the first layer's released prior into as many non-negative parts as there are images, by
scikit-learn, and matches parts and images one to one by their correlation. Of each seed, user and number of images: the
share of images that come back with a correlation above 0.9. The control matches the same parts with as many images of
the next user.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import NMF

from dua_lightning.privacy.release import Plain
from dua_lightning.report import records
from dua_lightning.report.records import ReleaseRecord, lines, read
from dua_lightning.report.statistics import interval
from dua_lightning.run import finished
from dua_lightning.run.draws import Draws, joined
from dua_lightning.store.files import write_text
from dua_lightning.streams import generator
from dua_lightning.tasks import Prior

PLAIN = "MAS-RACL, server statistics"
FEW = (1, 5, 20)
"""Numbers of images that are attacked."""
SEEN = 0.9
"""The correlation from which an image counts as recovered."""


def accuracies(run: Path) -> pd.DataFrame:
    """Average accuracy after the last task in percent, a column for each row, by seed and user."""
    records = read(run / "records.csv")
    last = records[records["after"] == records["after"].max()]
    return last.pivot_table(index=["seed", "user"], columns="label", values="accuracy", sort=False)


def costs(wide: pd.DataFrame) -> pd.DataFrame:
    """Each row's accuracy, and its difference to the plain prior with both intervals."""
    found = []
    for label in wide:
        apart = wide[label] - wide[PLAIN]
        halves = {f"CI ({of}s)": interval(apart.groupby(level=of).mean().to_numpy()).half for of in ("seed", "user")}
        found.append({"row": label, "accuracy": wide[label].mean(), "difference": apart.mean(), **halves})
    return pd.DataFrame(found)


def wires(run: Path) -> pd.DataFrame:
    """The mean bytes of a task's prior and the guarantee, by row; what is sent as measured is not in the table."""
    sent = records.table(run / "releases.csv", ReleaseRecord)
    sent = sent.rename(columns={"label": "row"})
    return sent.groupby("row", sort=False)[["plain", "sent", "epsilon", "delta"]].mean().reset_index()


def parts(prior: Prior, images: int) -> np.ndarray:
    """The non-negative factors of the first layer, with the biases as one more input, each an image without signs."""
    weight, bias = prior["body.1.weight"], prior["body.1.bias"]
    matrix = torch.cat([weight, bias[:, None]], 1).double().numpy()
    # Each unit on its own scale: those with small gradients show images as well.
    matrix = matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-30)
    with warnings.catch_warnings():
        # Noise does not converge.
        warnings.simplefilter("ignore")
        model = NMF(images, init="nndsvda", max_iter=300, random_state=0).fit(matrix)
    factors: np.ndarray = model.components_[:, :-1]
    return factors


def recovered(found: np.ndarray, images: torch.Tensor) -> float:
    """The share of the images that some part of its own shows."""
    truth = images.flatten(1).abs().double().numpy()

    def standard(rows: np.ndarray) -> np.ndarray:
        rows = rows - rows.mean(1, keepdims=True)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)

    correlations = standard(found) @ standard(truth).T
    return float((correlations[linear_sum_assignment(-correlations)] > SEEN).sum() / len(truth))


def attacks(run: Path) -> pd.DataFrame:
    """The share of images that come back, a line for each release that the user's MAS goes through."""
    shares: list[dict[str, object]] = []
    for settings in finished.read(run):
        draws = Draws(settings)
        wanted = [row for row in draws.rows if row.prior == "user" and row.importance == "mas"]
        for place, someone in enumerate(draws.benchmark.users):
            other = draws.benchmark.users[(place + 1) % len(draws.benchmark.users)]
            task = draws.benchmark.tasks[0]
            own, theirs = (
                torch.cat([x for x, _ in user.draw(1).of(task).validation_batches()]) for user in (someone, other)
            )
            for row in wanted:
                states = [draws.store.get(recipe) for recipe in draws.recipes.experts(row)]
                expert = joined(draws.benchmark.tasks, [state for state in states if state is not None])[0]
                release = row.release or Plain()
                for images in FEW:
                    assert row.psi is not None
                    omega = row.psi(draws.net, expert, [(own[:images], None)])
                    stream = generator(settings.seed, "attack", someone.user, images)
                    seen = parts(release(omega, images, stream).prior, images)
                    line = {"row": row.label, "images": images}
                    shares.append({**line, "of": "own", "recovered": recovered(seen, own[:images])})
                    shares.append({**line, "of": "control", "recovered": recovered(seen, theirs[:images])})
    frame = pd.DataFrame(shares).pivot_table(index="row", columns=["of", "images"], values="recovered", sort=False)
    frame.columns = [f"{of} {images}" for of, images in frame.columns]
    return 100 * frame.reset_index().set_index("row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("run", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = costs(accuracies(asked.run)).merge(wires(asked.run), on="row", how="left")
    table = table.merge(attacks(asked.run).reset_index(), on="row", how="left")
    asked.out.mkdir(parents=True, exist_ok=True)
    rounded = table.round({name: 4 for name in table if name not in ("row", "delta")})
    write_text(asked.out / "defences.csv", lines([list(rounded), *rounded.to_numpy().tolist()]))
    print(rounded.to_string(index=False))


if __name__ == "__main__":
    main()
