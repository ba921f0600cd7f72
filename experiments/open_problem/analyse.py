"""Each row of the study against the server's best, AdaBN and AdaBN-S, and how much of the step to labels it makes.

    python experiments/open_problem/analyse.py OUT RUN...

RUN are the folders of runs on one benchmark with rows of `method=open_problem` and others. A row's numbers are over the
seeds that it has. Pairs share seed, user and draw. Intervals are 95 % t intervals over users, of each user's mean over
seeds. `bars.csv` and `bars.png` go to OUT.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from dua_lightning.report.records import chunks
from dua_lightning.report.reduce import reduce
from dua_lightning.report.statistics import interval
from dua_lightning.store.files import replacing, write_text

SERVER, ADABN, ADABN_S = "mean-IMM, server statistics", "mean-IMM + AdaBN", "mean-IMM + AdaBN-S"
AGAINST = {"server": SERVER, "AdaBN": ADABN, "AdaBN-S": ADABN_S}
ROWS = r"mean-IMM|Task Experts"
"""Rows of other merges are left out."""
LABELLED = "AdaBN-S"
"""Rows with it in their label use labels; the best of them bounds what gamma, beta and statistics can do."""
COMMON = "mean-IMM, calibrated server statistics + "
"""The part of most labels that says nothing in this study."""


def accuracies(runs: list[Path]) -> pd.DataFrame:
    """Average accuracy in percent, a column for each row of the table, by seed, user and draw."""
    draws = reduce(part for run in runs for part in chunks(run / "records.csv")).draws
    draws = draws[draws["label"].str.match(ROWS)]
    return draws.pivot_table(
        index=["seed", "user", "iteration"], columns="label", values="average_accuracy", sort=False
    )


def bars(wide: pd.DataFrame) -> pd.DataFrame:
    """Each row: accuracy, gains over the rows of `AGAINST`, users who lose, and its share of the step to labels."""
    best = max((label for label in wide if LABELLED in label), key=lambda label: wide[label].mean())
    step = (wide[best] - wide[ADABN]).mean()
    lines = []
    for label in wide:
        line = {"row": label.removeprefix(COMMON).removeprefix("mean-IMM + "), "accuracy": wide[label].mean()}
        for name, other in AGAINST.items():
            apart = (wide[label] - wide[other]).dropna()
            gain = apart.groupby(level="user").mean()
            found = interval(gain.to_numpy())
            line |= {name: float(found.mean), f"{name} CI": float(found.half), f"{name} better": int((gain > 0).sum())}
            line[f"{name} lose a point"] = 100 * float((apart < -1).mean())
        line["seeds"] = wide[label].dropna().index.get_level_values("seed").nunique()
        lines.append({**line, "of the step to labels": 100 * (wide[label] - wide[ADABN]).mean() / step})
    return pd.DataFrame(lines).assign(users=wide.index.get_level_values("user").nunique())


def cells(found: pd.DataFrame) -> Iterator[list[str]]:
    """The table's cells: each gain with its interval and the users who have one."""
    for _, line in found.iterrows():
        gains = [f"{line[n]:+.1f} ± {line[f'{n} CI']:.1f} ({line[f'{n} better']})" for n in AGAINST]
        yield [line["row"], f"{line['accuracy']:.1f}", *gains, f"{line['server lose a point']:.0f}", str(line["seeds"])]


def figure(wide: pd.DataFrame, found: pd.DataFrame, path: Path) -> None:
    """Each row's gain over the server's best, with its interval, and each user's."""
    axis = plt.figure(figsize=(8, 0.32 * len(found) + 1)).subplots()
    for place, (label, line) in enumerate(zip(wide, found.itertuples(), strict=True)):
        users = (wide[label] - wide[SERVER]).dropna().groupby(level="user").mean()
        axis.plot(users, [place] * len(users), "o", color="0.65", markersize=4)
        half = found["server CI"].iloc[place]
        axis.errorbar(line.server, place, xerr=half, fmt="o", color="#0072B2", capsize=3)
    axis.axvline(0, color="#D55E00")
    fewer = found["seeds"].lt(found["seeds"].max()).map({True: " *", False: ""})
    names = found["row"] + found["accuracy"].map(", {:.1f} %".format) + fewer
    axis.set_yticks(range(len(found)), names)
    axis.invert_yaxis()
    axis.set_xlabel("points over the server's statistics; grey: users; *: fewer seeds")
    axis.figure.tight_layout()
    with replacing(path) as file:
        axis.figure.savefig(file, format="png", dpi=110)
    plt.close(axis.figure)


def main() -> None:
    out, *runs = map(Path, sys.argv[1:])
    wide = accuracies(runs)
    found = bars(wide)
    write_text(out / "bars.csv", found.round(3).to_csv(index=False))
    figure(wide, found, out / "bars.png")
    heads = ["row", "%", "over the server", "over AdaBN", "over AdaBN-S", "lose a point, %", "seeds"]
    print(" | ".join(heads))
    for line in cells(found):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
