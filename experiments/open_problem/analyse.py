"""Each row of the study against the server's best, AdaBN and AdaBN-S, and how much of the step to labels it makes.

    python experiments/open_problem/analyse.py OUT RUN...
    python experiments/open_problem/analyse.py OUT RUN... --rows REGEX --against LABEL...    # other rows, other pairs

RUN are the folders of runs on one benchmark with rows of `method=open_problem` and others. A training is a seed on a
device: the same seed on a processor and on a GPU has the same data and other last bits, which make other experts. A
row's numbers are over the trainings that it has. Pairs share training, user and draw. Intervals are 95 % t intervals
over users, of each user's mean over trainings. `bars.csv` and `bars.png` go to OUT.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import pandas as pd
from omegaconf import OmegaConf

from dua_lightning.report.records import chunks
from dua_lightning.report.reduce import reduce
from dua_lightning.report.statistics import interval
from dua_lightning.store.files import replacing, write_text

SERVER, ADABN, ADABN_S = "mean-IMM, server statistics", "mean-IMM + AdaBN", "mean-IMM + AdaBN-S"
NAMES = {SERVER: "the server's statistics", ADABN: "AdaBN", ADABN_S: "AdaBN-S"}
"""The headings of rows that others are compared with; a row that is not here is called by its label."""
ROWS = r"mean-IMM|Task Experts"
"""Rows of other merges are left out, unless they are asked for."""
LABELLED = "AdaBN-S"
"""Rows with it in their label use labels; the best of them bounds what gamma, beta and statistics can do."""
COMMON = "mean-IMM, calibrated server statistics + "
"""The part of most labels that says nothing in this study."""
PAIR = ["training", "user", "iteration"]


def accuracies(runs: Sequence[Path], rows: str = ROWS) -> pd.DataFrame:
    """Average accuracy in percent, a column for each row of the table, by training, user and draw."""
    draws = []
    for run in runs:
        device = OmegaConf.load(run / "config.yaml").trainer.accelerator
        found = reduce(chunks(run / "records.csv")).draws
        draws.append(found.assign(training=device + " " + found["seed"].astype(str)))
    every = pd.concat(draws)
    every = every[every["label"].str.match(rows)]
    return every.pivot_table(index=PAIR, columns="label", values="average_accuracy", sort=False)


def bars(wide: pd.DataFrame, against: Sequence[str]) -> pd.DataFrame:
    """Each row: accuracy, gains over other rows, users who lose, and its share of the step to labels."""
    labelled = [label for label in wide if LABELLED in label]
    lines = []
    for label in wide:
        line = {"row": label.removeprefix(COMMON).removeprefix("mean-IMM + "), "accuracy": wide[label].mean()}
        for other in against:
            name, apart = NAMES.get(other, other), (wide[label] - wide[other]).dropna()
            gain = apart.groupby(level="user").mean()
            found = interval(gain.to_numpy())
            line |= {name: float(found.mean), f"{name} CI": float(found.half), f"{name} better": int((gain > 0).sum())}
            line[f"{name} lose a point"] = 100 * float((apart < -1).mean())
        line["trainings"] = wide[label].dropna().index.get_level_values("training").nunique()
        if labelled:
            best = max(labelled, key=lambda label: (wide[label] - wide[ADABN]).mean())
            there = wide[best].notna() & wide[label].notna()
            own, step = ((wide[of] - wide[ADABN])[there].mean() for of in (label, best))
            line["of the step to labels"] = 100 * own / step
        lines.append(line)
    return pd.DataFrame(lines).assign(users=wide.index.get_level_values("user").nunique())


def cells(found: pd.DataFrame, against: Sequence[str]) -> Iterator[list[str]]:
    """The table's cells: each gain with its interval and the users who have one."""
    names = [NAMES.get(other, other) for other in against]
    for _, line in found.iterrows():
        gains = [f"{line[n]:+.1f} ± {line[f'{n} CI']:.1f} ({line[f'{n} better']})" for n in names]
        rest = [f"{line[f'{names[0]} lose a point']:.0f}", str(line["trainings"])]
        yield [line["row"], f"{line['accuracy']:.1f}", *gains, *rest]


def figure(wide: pd.DataFrame, found: pd.DataFrame, base: str, path: Path) -> None:
    """Each row's gain over one of them, with its interval, and each user's."""
    name = NAMES.get(base, base)
    axis = plt.figure(figsize=(8, 0.32 * len(found) + 1)).subplots()
    for place, label in enumerate(wide):
        users = (wide[label] - wide[base]).dropna().groupby(level="user").mean()
        axis.plot(users, [place] * len(users), "o", color="0.65", markersize=4)
        gain, half = found[[name, f"{name} CI"]].iloc[place]
        axis.errorbar(gain, place, xerr=half, fmt="o", color="#0072B2", capsize=3)
    axis.axvline(0, color="#D55E00")
    fewer = found["trainings"].lt(found["trainings"].max()).map({True: " *", False: ""})
    names = found["row"].map(lambda row: fill(row, 44)) + fewer
    axis.set_yticks(range(len(found)), names)
    axis.invert_yaxis()
    axis.set_xlabel(f"points over {name}; grey: users; *: fewer trainings")
    axis.figure.tight_layout()
    with replacing(path) as file:
        axis.figure.savefig(file, format="png", dpi=110)
    plt.close(axis.figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--against", nargs="+", default=[SERVER, ADABN, ADABN_S])
    given = parser.parse_args()
    wide = accuracies(given.runs, given.rows)
    found = bars(wide, given.against)
    write_text(given.out / "bars.csv", found.round(3).to_csv(index=False))
    figure(wide, found, given.against[0], given.out / "bars.png")
    names = [NAMES.get(other, other) for other in given.against]
    print(" | ".join(["row", "%", *(f"over {name}" for name in names), "lose a point, %", "trainings"]))
    for line in cells(found, given.against):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
