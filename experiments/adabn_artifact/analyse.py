"""Paired differences between AdaBN, the released AdaBN and no adaptation, with confidence intervals and a figure.

    python experiments/adabn_artifact/analyse.py RUN

Pairs share row, seed, user and draw. Intervals are 95 % t intervals over users (each user's mean over seeds and draws),
so they speak of another user drawn from the same kind; the spread over seeds stands beside them.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from rich.console import Console
from rich.table import Table

from dua_lightning.report.records import chunks
from dua_lightning.report.reduce import reduce
from dua_lightning.report.statistics import interval
from dua_lightning.store.files import replacing, write_text

COMPARISONS = {
    "AdaBN minus none": ("adabn", "none"),
    "released minus none": ("adabn_released", "none"),
    "AdaBN minus released": ("adabn", "adabn_released"),
}


def differences(draws: pd.DataFrame) -> pd.DataFrame:
    """Average accuracy of each pair, in points: columns `method, comparison, seed, user, iteration, difference`."""
    draws = draws.assign(method=draws["label"].str.split(" + ", regex=False).str[0])
    wide = draws.pivot_table(
        index=["method", "seed", "user", "iteration"], columns="adapt", values="average_accuracy", sort=False
    )
    return pd.concat(
        (wide[a] - wide[b]).rename("difference").reset_index().assign(comparison=name)
        for name, (a, b) in COMPARISONS.items()
    )


def summary(pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean, 95 % interval over users and standard deviation over seeds, for each method and comparison."""
    lines = []
    for (method, comparison), group in pairs.groupby(["method", "comparison"], sort=False):
        users = group.groupby("user")["difference"].mean()
        seeds = group.groupby("seed")["difference"].mean()
        half = interval(users).half
        lines.append(
            {
                "method": method,
                "comparison": comparison,
                "mean": users.mean(),
                "low": users.mean() - half,
                "high": users.mean() + half,
                "std_over_seeds": seeds.std(),
                "users_better": int((users > 0).sum()),
                "users": len(users),
            }
        )
    return pd.DataFrame(lines)


def draw(found: pd.DataFrame, path: Path) -> None:
    """The mean difference to no adaptation of each method with its interval, for both kinds of AdaBN."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    looks = {
        "AdaBN minus none": ("AdaBN", "o", "#0072B2"),
        "released minus none": ("AdaBN as released", "X", "#D55E00"),
    }
    methods = list(dict.fromkeys(found["method"]))
    for shift, (name, (label, marker, colour)) in zip((-0.12, 0.12), looks.items(), strict=True):
        lines = found[found["comparison"] == name].set_index("method").loc[methods]
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


def main(run: Path) -> None:
    pairs = differences(reduce(chunks(run / "records.csv")).draws)
    found = summary(pairs)
    table = Table("method", "comparison", "mean [95 %]", "std, seeds", "better", caption="points; 95 % over users")
    for line in found.to_dict("records"):
        interval = f"{line['mean']:+.2f} [{line['low']:+.2f}, {line['high']:+.2f}]"
        better = f"{line['users_better']}/{line['users']}"
        table.add_row(line["method"], line["comparison"], interval, f"{line['std_over_seeds']:.2f}", better)
    Console().print(table)
    write_text(run / "adabn_artifact.csv", found.round(4).to_csv(index=False))
    draw(found, run / "adabn_artifact.png")
    Console(soft_wrap=True).print(f"  {run / 'adabn_artifact.csv'}\n  {run / 'adabn_artifact.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
