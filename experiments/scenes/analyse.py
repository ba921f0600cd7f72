"""Tables 2, 3 and 4 on MiniPlaces beside the published ones of MIT Indoor Scenes, AdaBN as released, and the ledger.

    python experiments/scenes/analyse.py RUN [OUT]

RUN is the folder of a run of `method=scenes` or `method=ledger`. Pairs share row, seed, user and draw. Intervals are
95 % t intervals over users (each user's mean over seeds), and speak of another user of the same kind; the spread over
seeds stands beside.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from dua_lightning.report.published import published
from dua_lightning.report.records import chunks
from dua_lightning.report.reduce import reduce
from dua_lightning.report.statistics import interval
from dua_lightning.report.terminal import Column, Sheet, Terminal
from dua_lightning.store.files import replacing, write_text

STEPS = {
    "the last expert's statistics": "{0}",
    "the server's, through the merged model": "{0}, server statistics",
    "the user's (AdaBN)": "{0} + AdaBN",
    "gamma and beta with labels (AdaBN-S)": "{0} + AdaBN-S",
    "unmerged experts with AdaBN": "Task Experts + AdaBN",
    "unmerged experts, fine-tuned with labels": "Task Experts",
}
"""The steps of the ledger, and the row of each; `{0}` is a merge."""
MERGES = ("mean-IMM", "MAS-IMM", "FIM-IMM", "MAS-RACL", "FIM-RACL")
LOOKS = {"AdaBN": ("o", "#0072B2"), "AdaBN (released)": ("X", "#D55E00")}
"""Kinds of AdaBN, and how the figure shows them."""
TITLES = {"transprior": "TransPrior", "catprior": "CatPrior"}
ALSO = {"forgetting": "forgetting", "published_vgg11": "VGG11", "published_vgg11_bn": "VGG11-BN"}
"""Further columns of the table, and their headings in the terminal."""


def accuracies(draws: pd.DataFrame) -> pd.DataFrame:
    """Average accuracy in percent, a column for each row of the table, by seed, user and draw."""
    return draws.pivot_table(
        index=["seed", "user", "iteration"], columns="label", values="average_accuracy", sort=False
    )


def summary(values: pd.Series) -> dict[str, float]:
    """Mean, 95 % interval over users, and standard deviation over seeds."""
    users = values.groupby(level="user").mean()
    found = interval(users)
    return {
        "mean": float(found.mean),
        "low": float(found.mean - found.half),
        "high": float(found.mean + found.half),
        "std_over_seeds": float(values.groupby(level="seed").mean().std()),
        "users_better": int((users > 0).sum()),
        "users": len(users),
    }


def table(draws: pd.DataFrame, wide: pd.DataFrame) -> pd.DataFrame:
    """Every row: accuracy and forgetting, and what the paper has of it for VGG11 (Tables 2 and 3) and VGG11-BN (4)."""
    known = published()
    known = known[(known["data"] == draws["data"].iloc[0]) & known["model"].isin(["vgg11", "vgg11_bn"])]
    lines = []
    for label, group in draws.groupby("label", sort=False):
        method = str(label).partition(" + ")[0]
        of_row = known[(known["method"] == method) & (known["adapt"] == group["adapt"].iloc[0])]
        of_model = of_row.drop_duplicates("model").set_index("model")["accuracy"]
        lost = group.set_index(["seed", "user", "iteration"])["forgetting"]
        lines.append(
            {
                "row": label,
                **summary(wide[label].dropna()),
                "forgetting": lost.mean(),
                "published_vgg11": of_model.get("vgg11", float("nan")),
                "published_vgg11_bn": of_model.get("vgg11_bn", float("nan")),
            }
        )
    return pd.DataFrame(lines).drop(columns=["users_better"])


def artifact(wide: pd.DataFrame) -> pd.DataFrame:
    """AdaBN, and what the release evaluates as AdaBN, minus no adaptation."""
    lines = []
    for label in wide:
        for kind in LOOKS:
            if f"{label} + {kind}" in wide:
                # A method with an adaptation of its own says so where it has none.
                plain = f"{label} + no adaptation"
                apart = (wide[f"{label} + {kind}"] - wide[plain if plain in wide else label]).dropna()
                lines.append({"row": label, "kind": kind, **summary(apart)})
    return pd.DataFrame(lines)


def ledger(wide: pd.DataFrame) -> pd.DataFrame:
    """The accuracy after each step, and the step's gain over the one before it, for each merge."""
    lines = []
    for merge in (name for name in MERGES if name in wide):
        before = None
        for step, name in STEPS.items():
            row = name.format(merge)
            if row not in wide:
                continue
            level = summary(wide[row].dropna())
            gain = summary((wide[row] - wide[before]).dropna()) if before else {}
            lines.append(
                {
                    "merge": merge,
                    "step": step,
                    "accuracy": level["mean"],
                    "accuracy_std_over_seeds": level["std_over_seeds"],
                    **{f"gain_{key}" if key in ("mean", "low", "high") else key: gain.get(key) for key in level},
                }
            )
            before = row
    return pd.DataFrame(lines)


def priors(wide: pd.DataFrame) -> pd.DataFrame:
    """The effect of a user's own prior: each RACL row minus its IMM row."""
    rows = [(label, label.replace("-RACL", "-IMM")) for label in map(str, wide) if "-RACL" in label]
    return pd.DataFrame(
        [{"row": row, **summary((wide[row] - wide[other]).dropna())} for row, other in rows if other in wide]
    )


def users(wide: pd.DataFrame, merge: str) -> pd.DataFrame:
    """Each user's gain by AdaBN over the server's statistics, mean over seeds."""
    apart = wide[f"{merge} + AdaBN"] - wide[f"{merge}, server statistics"]
    return apart.dropna().groupby(level="user", sort=False).mean().rename("gain").reset_index()


def draw_ledger(found: pd.DataFrame, path: Path, title: str) -> None:
    """A bar for each step of a merge's ledger: the accuracy so far, and the gain with its interval."""
    lines = found[found["merge"] == "MAS-IMM"].reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
    before = lines["accuracy"].shift(fill_value=0.0)
    colours = ["#999999", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00"]
    axes.barh(lines["step"], lines["accuracy"] - before, left=before, color=colours[: len(lines)])
    for place, line in enumerate(lines.itertuples()):
        text = f"{line.accuracy:.1f} %"
        if place:
            half = (line.gain_high - line.gain_low) / 2
            axes.errorbar(line.accuracy, place, xerr=half, color="black", capsize=3, linewidth=1)
            text += f"   {line.gain_mean:+.1f} [{line.gain_low:+.1f}, {line.gain_high:+.1f}]"
        reach = max(line.accuracy, before[place]) + ((line.gain_high - line.gain_low) / 2 if place else 0)
        axes.annotate(text, (reach, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, lines["accuracy"].max() * 1.6)
    axes.set_xlabel("average accuracy in percent; gain over the step above, in points, 95 % over users")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_artifact(found: pd.DataFrame, path: Path, title: str) -> None:
    """The gain of both kinds of AdaBN for each row, with its interval."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    rows = list(dict.fromkeys(found["row"]))
    for shift, (kind, (marker, colour)) in zip((-0.12, 0.12), LOOKS.items(), strict=True):
        lines = found[found["kind"] == kind].set_index("row").reindex(rows)
        reach = [lines["mean"] - lines["low"], lines["high"] - lines["mean"]]
        places = [place + shift for place in range(len(rows))]
        axes.errorbar(lines["mean"], places, xerr=reach, fmt=marker, color=colour, capsize=3, label=kind)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel("points of average accuracy gained over no adaptation, 95 % over users")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def _sheet(frame: pd.DataFrame, title: str, gain: str = "") -> Sheet:
    """A table for the terminal: means with their intervals, and how many users are better off."""
    columns = [Column(frame.columns[0], frame.iloc[:, 0].astype(str).tolist(), number=False)]
    if "kind" in frame:
        columns.append(Column("kind", frame["kind"].tolist(), number=False))
    if "accuracy" in frame:
        columns.append(Column("accuracy", _numbers(frame["accuracy"])))
    bounds = zip(_numbers(frame[f"{gain}low"]), _numbers(frame[f"{gain}high"]), strict=True)
    means = [
        f"{mean} [{low}, {high}]" if mean else ""
        for mean, (low, high) in zip(_numbers(frame[f"{gain}mean"]), bounds, strict=True)
    ]
    columns.append(Column("gain [95 %]" if gain else "mean [95 %]", means))
    columns.append(Column("std, seeds", _numbers(frame["std_over_seeds"])))
    columns += [Column(title, _numbers(frame[name])) for name, title in ALSO.items() if name in frame]
    if "users_better" in frame:
        better = [
            f"{int(n)}/{int(of)}" if of > 0 else ""
            for n, of in frame[["users_better", "users"]].itertuples(index=False)
        ]
        columns.append(Column("better", better))
    return Sheet(title, [column for column in columns if any(column.cells)])


def _numbers(values: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else f"{value:.1f}" for value in values]


def main(run: Path, out: Path) -> None:
    draws = reduce(chunks(run / "records.csv")).draws
    name = draws["data"].iloc[0]
    wide = accuracies(draws)
    found = {
        "table": table(draws, wide),
        "artifact": artifact(wide),
        "ledger": ledger(wide),
        "priors": priors(wide),
        "users": users(wide, "MAS-IMM"),
    }
    console = Terminal()
    console.print(_sheet(found["table"], f"{name}: average accuracy in percent; forgetting in points"))
    console.print(_sheet(found["artifact"], f"{name}: points gained over no adaptation"))
    for merge, steps in found["ledger"].groupby("merge", sort=False):
        console.print(
            _sheet(steps.drop(columns="merge"), f"{name}, {merge}: accuracy in percent, gains in points", "gain_")
        )
    console.print(_sheet(found["priors"], f"{name}: the user's own prior minus the server's, in points"))
    gains = Column("gain", _numbers(found["users"]["gain"]))
    whose = Column("user", found["users"]["user"].tolist(), number=False)
    console.print(Sheet(f"{name}, MAS-IMM: AdaBN minus the server's statistics, in points", [whose, gains]))
    paths = []
    for part, frame in found.items():
        paths.append(out / f"{name}_{part}.csv")
        write_text(paths[-1], frame.round(3).to_csv(index=False))
    paths += [out / f"{name}_ledger.png", out / f"{name}_artifact.png"]
    title = TITLES.get(name, name)
    draw_ledger(found["ledger"], paths[-2], f"What each step gains on real scenes: MAS-IMM, {title}")
    draw_artifact(found["artifact"], paths[-1], f"AdaBN, and what the authors' release evaluates as AdaBN ({title})")
    for path in paths:
        console.print(f"  {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else sys.argv[1]))
