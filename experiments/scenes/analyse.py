"""Tables 2, 3 and 4 on MiniPlaces beside the published ones of MIT Indoor Scenes, and each user's gain by AdaBN.

    python experiments/scenes/analyse.py RUN [OUT]

RUN is the folder of a run of `method=scenes` or `method=ledger`. Pairs share row, seed, user and draw. Intervals are
95 % t intervals over users (each user's mean over seeds), and speak of another user of the same kind; the spread over
seeds stands beside. `dua ledger RUN` has the steps and the priors, `../adabn_artifact/analyse.py` AdaBN as released.
"""

import sys
from pathlib import Path

import pandas as pd

from dua_lightning.report.published import published
from dua_lightning.report.records import chunks
from dua_lightning.report.reduce import reduce
from dua_lightning.report.statistics import interval
from dua_lightning.report.terminal import Column, Sheet, Terminal
from dua_lightning.store.files import write_text

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
    return pd.DataFrame(lines)


def users(wide: pd.DataFrame, merge: str) -> pd.DataFrame:
    """Each user's gain by AdaBN over the server's statistics, mean over seeds."""
    apart = wide[f"{merge} + AdaBN"] - wide[f"{merge}, server statistics"]
    return apart.dropna().groupby(level="user", sort=False).mean().rename("gain").reset_index()


def _sheet(frame: pd.DataFrame, title: str) -> Sheet:
    """The table for the terminal: means with their intervals."""
    bounds = zip(*(_numbers(frame[name]) for name in ("mean", "low", "high")), strict=True)
    columns = [
        Column("row", frame["row"].tolist(), number=False),
        Column("mean [95 %]", [f"{mean} [{low}, {high}]" for mean, low, high in bounds]),
        Column("std, seeds", _numbers(frame["std_over_seeds"])),
        *(Column(heading, _numbers(frame[name])) for name, heading in ALSO.items()),
    ]
    return Sheet(title, [column for column in columns if any(column.cells)])


def _numbers(values: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else f"{value:.1f}" for value in values]


def main(run: Path, out: Path) -> None:
    draws = reduce(chunks(run / "records.csv")).draws
    name = draws["data"].iloc[0]
    wide = accuracies(draws)
    found = {"table": table(draws, wide), "users": users(wide, "MAS-IMM")}
    console = Terminal()
    console.print(_sheet(found["table"], f"{name}: average accuracy in percent; forgetting in points"))
    gains = Column("gain", _numbers(found["users"]["gain"]))
    whose = Column("user", found["users"]["user"].tolist(), number=False)
    console.print(Sheet(f"{name}, MAS-IMM: AdaBN minus the server's statistics, in points", [whose, gains]))
    for part, frame in found.items():
        path = out / f"{name}_{part}.csv"
        write_text(path, frame.round(3).to_csv(index=False))
        console.print(f"  {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else sys.argv[1]))
