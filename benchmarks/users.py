"""The cost of a user as users become many: time for each, and peak memory of the run. `make bench-users`.

    python benchmarks/users.py [--fewest 10] [--most 10000] [--out outputs/bench] [engine=loky engine.workers=2 ..]

Every run is a process of its own: a population on digits, a small MLP, MAS-RACL; everything from a user's pictures to
the stored result, and the table at the end. The experts are trained before. The clock starts after `WARM_UP` users, who
pay for what is loaded and checked once. Processor and memory are those of the run's own process, without an engine's
workers. Writes `users.csv`, `users.json` and `users.png`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from dua_lightning.store.files import replacing, write_text

RUNS = {10: 10, 100: 3, 1_000: 1, 10_000: 1}
"""Number of users -> runs, each with a seed of its own: transforms differ in cost, and ten users have few of them."""
WARM_UP = 20
TIME, MEMORY = 0.10, 0.05
"""By how much a user's time, and the peak memory, may differ from those of the fewest users."""
SETTINGS = (
    *("+experiment=population", "data.fewest_images=8", "data.most_images=12", "data.input_size=28"),
    *("model.width=50", "trainer.max_epochs=1", "threads=1", "logger=none"),
)


def run(users: int, seed: int, store: str, folder: str, settings: Sequence[str]) -> dict[str, float]:
    """One run, its parent in this process."""
    import torch
    from hydra import compose, initialize_config_dir
    from rich.console import Console

    from dua_lightning.__main__ import CONF
    from dua_lightning.engines import Engine
    from dua_lightning.report.display import Display
    from dua_lightning.report.stream import Stream
    from dua_lightning.run.pipeline import draw_records, report
    from dua_lightning.run.results import Results
    from dua_lightning.run.settings import read

    places = [f"paths.store_dir={store}", f"paths.output_dir={folder}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*SETTINGS, *settings, *places, f"data.users={WARM_UP + users}", f"seed={seed}"])
    of_run = read(cfg)
    (of_seed,) = of_run.seeds
    torch.set_num_threads(of_run.threads or 1)
    console = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    began = used = 0.0
    with (
        of_run.engine.build(Engine) as engine,
        Stream(Path(folder) / "records.csv") as stream,
        Stream(Path(folder) / "trainings.csv") as trainings,
    ):
        results = Results(of_seed, Display(console), None, engine, trainings)
        for place, (user, iteration, (result,)) in enumerate(results.by_draw()):
            stream.write(draw_records(of_seed, results.rows[0], user, iteration, result.R))
            if place == WARM_UP - 1:
                began, used = time.perf_counter(), time.process_time()
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    report(Path(folder), "users", [], None, console)
    # The peak is this program's alone; `getrusage` begins with the memory of the process that started it.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {"users": users, **{name: value / users for name, value in spent.items()}, "peak_mib": int(peak) / 1024}


def measured(users: int, seed: int, experts: Path, settings: Sequence[str]) -> dict[str, float]:
    """One run as a process of its own, with a store that has the experts alone."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir()
        (store / "experts").symlink_to(experts)
        command = [sys.executable, __file__, "--child", str(users), str(seed), "--store", str(store)]
        done = subprocess.run([*command, "--out", folder, *settings], check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def verdict(frame: pd.DataFrame, column: str, allowed: float) -> str:
    """Whether every number of users stays within `allowed` of the fewest."""
    values = frame.set_index("users")[column]
    most = float((values / values.iloc[0] - 1).abs().max())
    return f"{column}: within {100 * most:.1f} % of {values.index[0]} users; {'met' if most <= allowed else 'NOT met'}"


def draw(frame: pd.DataFrame, path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    panels[0].semilogx(frame.users, 1e3 * frame.seconds, "o-", color="black", label="elapsed")
    panels[0].semilogx(frame.users, 1e3 * frame.cpu_seconds, "s--", color="#E69F00", label="of the processor")
    panels[0].set(title="Time for each user", xlabel="users", ylabel="ms", ylim=(0, None))
    panels[0].legend()
    panels[1].semilogx(frame.users, frame.peak_mib, "o-", color="black")
    panels[1].set(title="Peak memory of the run", xlabel="users", ylabel="MiB", ylim=(0, None))
    figure.suptitle("A user costs the same however many there are", x=0.02, ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fewest", type=int, default=min(RUNS), help="the smallest number of users")
    parser.add_argument("--most", type=int, default=max(RUNS), help="the largest number of users")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("settings", nargs="*", help="of the runs, such as engine=loky")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(run(*given.child, given.store, str(given.out), given.settings)))
        return
    found = []
    chosen = {users: runs for users, runs in RUNS.items() if given.fewest <= users <= given.most}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, max(chosen.values()) + 1):
            run(1, seed, f"{folder}/store", folder, ())
        experts = Path(folder) / "store" / "experts"
        for users, runs in chosen.items():
            lines = [measured(users, seed + 1, experts, given.settings) for seed in range(runs)]
            found.append(pd.DataFrame(lines).mean())
            print(", ".join(f"{name} {value:.5g}" for name, value in found[-1].items()), flush=True)
    frame = pd.DataFrame(found).astype({"users": int})
    with replacing(given.out / "users.csv") as temporary:
        frame.to_csv(temporary, index=False)
    verdicts = [
        verdict(frame, "seconds", TIME),
        verdict(frame, "cpu_seconds", TIME),
        verdict(frame, "peak_mib", MEMORY),
    ]
    write_text(
        given.out / "users.json", json.dumps({"users": frame.to_dict("records"), "verdicts": verdicts}, indent=2)
    )
    draw(frame, given.out / "users.png")
    print("\n".join(verdicts))


if __name__ == "__main__":
    main()
