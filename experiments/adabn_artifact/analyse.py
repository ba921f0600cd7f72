"""Paired differences between AdaBN, the released AdaBN and no adaptation, with confidence intervals and a figure.

    python experiments/adabn_artifact/analyse.py RUN

Pairs share row, seed, user and draw. Intervals are 95 % t intervals over users (each user's mean over seeds and draws),
so they speak of another user drawn from the same kind; the spread over seeds stands beside them.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from dua_lightning.report.pairs import Difference, Rows
from dua_lightning.report.records import chunks
from dua_lightning.report.reduce import reduce
from dua_lightning.report.terminal import Column, Sheet, Terminal
from dua_lightning.store.files import replacing, write_text

COMPARISONS = {
    "AdaBN minus none": ("AdaBN", "no adaptation"),
    "released minus none": ("AdaBN (released)", "no adaptation"),
    "AdaBN minus released": ("AdaBN", "AdaBN (released)"),
}
LOOKS = {"AdaBN minus none": ("AdaBN", "o", "#0072B2"), "released minus none": ("AdaBN as released", "X", "#D55E00")}
"""The comparisons of the figure: name, marker and colour."""


def summary(rows: Rows) -> pd.DataFrame:
    """Mean, 95 % interval over users and standard deviation over seeds, for each method and comparison."""
    lines = []
    for method in rows.of:
        for name, ends in COMPARISONS.items():
            first, second = (_row(rows, method, end) for end in ends)
            if first and second and (found := rows.difference(first, second)):
                lines.append({"method": method, "comparison": name, **_numbers(found)})
    return pd.DataFrame(lines)


def _row(rows: Rows, method: str, adaptation: str) -> str | None:
    """A method with an adaptation of its own says so where it has none, and others do not."""
    label = f"{method} + {adaptation}"
    if label in rows.of:
        return label
    return method if adaptation == "no adaptation" else None


def _numbers(found: Difference) -> dict[str, float]:
    return {
        "mean": found.mean,
        "low": found.mean - found.half,
        "high": found.mean + found.half,
        "std_over_seeds": found.seeds.std(),
        "users_better": (found.users > 0).sum(),
        "users": len(found.users),
    }


def draw(found: pd.DataFrame, path: Path) -> None:
    """The mean difference to no adaptation of each method with its interval, for both kinds of AdaBN."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    methods = list(dict.fromkeys(found["method"]))
    for shift, (name, (label, marker, colour)) in zip((-0.12, 0.12), LOOKS.items(), strict=True):
        lines = found[found["comparison"] == name].set_index("method").reindex(methods)
        places = [place + shift for place in range(len(methods))]
        reach = [lines["mean"] - lines["low"], lines["high"] - lines["mean"]]
        axes.errorbar(lines["mean"], places, xerr=reach, fmt=marker, color=colour, capsize=3, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlabel("points of average accuracy gained over no adaptation (95 % over users)")
    axes.set_title(
        "What AdaBN changes, and what the authors' release evaluates under its name", loc="left", fontsize=11
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def main(run: Path) -> None:
    found = summary(Rows(reduce(chunks(run / "records.csv")).draws))
    means = ["{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format_map(line) for line in found.to_dict("records")]
    columns = [
        Column("method", found["method"].tolist(), number=False),
        Column("comparison", found["comparison"].tolist(), number=False),
        Column("mean [95 %]", means),
        Column("std, seeds", [f"{value:.2f}" for value in found["std_over_seeds"]]),
        Column("better", [f"{n}/{of}" for n, of in zip(found["users_better"], found["users"], strict=True)]),
    ]
    console = Terminal()
    console.print(Sheet("", columns, "points; 95 % over users", keys=2))
    write_text(run / "adabn_artifact.csv", found.round(4).to_csv(index=False))
    draw(found, run / "adabn_artifact.png")
    console.print(f"  {run / 'adabn_artifact.csv'}\n  {run / 'adabn_artifact.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
