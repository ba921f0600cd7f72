"""A user's exported model in each runtime: size, time to load, time for a picture, memory, parity, and AdaBN.

    pip install 'dua_lightning[export,executorch]'
    python benchmarks/export.py RUN [--row LABEL] [--user NAME] [--task NAME] [--repeats 15] [--out outputs/bench]

RUN is a finished run. The model of one user and task is exported, and each runtime computes the user's evaluation
pictures in a process of its own with one thread: PyTorch, the `.pt2` file in PyTorch, ONNX in onnxruntime, the same
with batch-norm statistics as inputs, and ExecuTorch with XNNPACK. Formats whose packages are missing are left out.

- load: seconds from the imports to a model that is ready; imports: seconds before that
- batch 1, batch 32: milliseconds for a picture, the median of the repeats, after one call
- peak: the largest resident memory of the process in MiB, with batches of 1, and of 32 after that; imports are in it
- parity: the largest difference of a probability from PyTorch's on all evaluation pictures
- AdaBN: seconds on up to 50 of the user's pictures at once, and in batches of 10 with exact statistics

Writes `export.csv`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from memory import status
from safetensors import safe_open

KINDS = {
    "PyTorch": "safetensors",
    "torch.export": "pt2",
    "onnxruntime": "onnx",
    "onnxruntime, statistics as inputs": "statistics",
    "ExecuTorch, XNNPACK": "pte",
}
"""Runtimes, and the formats of the files that they load."""
ADAPTS = {"PyTorch": "safetensors", "onnxruntime": "moments"}
"""Those by which AdaBN was computed."""
PICTURES, IN_BATCH = 50, 10
"""The pictures of AdaBN, and those of a batch where they do not go at once."""
Predict = Callable[[np.ndarray], np.ndarray]


def loader(kind: str, folder: Path, task: dict[str, Any]) -> Callable[[], Predict]:
    """Import a runtime; the function that loads the model."""
    if kind == "safetensors":
        import torch

        from dua_lightning import load

        torch.set_num_threads(1)
        return lambda: of_torch(load(folder).module(task["name"]))
    if kind == "pt2":
        import torch

        torch.set_num_threads(1)
        return lambda: of_torch(torch.export.load(folder / task["pt2"]).module())
    if kind == "pte":
        import executorch.runtime  # noqa: F401

        return lambda: of_executorch(folder / task["pte"])
    import onnxruntime  # noqa: F401

    return lambda: of_onnxruntime(folder, task, kind)


def of_torch(net: Any) -> Predict:
    import torch

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(x)).numpy()

    return predict


def of_executorch(path: Path) -> Predict:
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(1)
    method = Runtime.get().load_program(path).load_method("forward")
    return lambda x: method.execute([torch.from_numpy(x)])[0].numpy().copy()


def of_onnxruntime(folder: Path, task: dict[str, Any], kind: str) -> Predict:
    if kind == "onnx":
        session = session_of(folder / task["onnx"])
        return lambda x: session.run(None, {"input": x})[0]
    session = session_of(folder / task["statistics"])
    statistics = {}
    with safe_open(folder / "model.safetensors", framework="np") as file:
        stored = {name.removeprefix(part): name for part in ("shared/", task["tensors"]) for name in file.keys()}  # noqa: SIM118
        for given in session.get_inputs()[1:] + session.get_overridable_initializers():
            statistics[given.name] = file.get_tensor(stored[given.name])
    return lambda x: session.run(None, {"input": x, **statistics})[0]


def session_of(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # It warns of each input that has a default.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measured(kind: str, folder: Path, task: dict[str, Any], x: np.ndarray, repeats: int) -> dict[str, Any]:
    """One runtime, in this process; the logits are in it."""
    began = time.perf_counter()
    load = loader(kind, folder, task)
    imported = time.perf_counter()
    predict = load()
    found: dict[str, Any] = {"imports": imported - began, "load": time.perf_counter() - imported}
    for size in (1, 32):
        batch, times = np.ascontiguousarray(x[:size]), []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            predict(batch)
            times.append(1000 * (time.perf_counter() - start) / len(batch))
        found |= {f"batch {size}": median(times[1:]), f"peak {size}": status("VmHWM") / 2**20}
    parts = [predict(np.ascontiguousarray(x[i : i + 32])) for i in range(0, len(x), 32)]
    return {**found, "logits": np.concatenate(parts).tolist()}


def adapted(kind: str, folder: Path, task: dict[str, Any], x: np.ndarray, repeats: int) -> dict[str, Any]:
    """AdaBN on some pictures, at once and in batches, in this process; the statistics are in it."""
    batches = [x[i : i + IN_BATCH] for i in range(0, len(x), IN_BATCH)]
    if kind == "moments":
        session = session_of(folder / task["moments"])
        whole, parts = lambda: at_once(session, x), lambda: layer_by_layer(session, batches)
    else:
        import torch

        from dua_lightning import load
        from dua_lightning.adapt import AdaBN

        torch.set_num_threads(1)
        model = load(folder)
        of, data = model.task(task["name"]), [(torch.from_numpy(x), None)]

        def by_torch(images_at_once: int | None) -> dict[str, np.ndarray]:
            state = AdaBN(images_at_once=images_at_once)(model.net, model.states[of.name], of, data)
            return {name: tensor.numpy() for name, tensor in state.items() if "running" in name}

        whole, parts = lambda: by_torch(None), lambda: by_torch(IN_BATCH)
    whole()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        statistics = whole()
        times.append(time.perf_counter() - start)
    found: dict[str, Any] = {"at once": median(times), "peak": status("VmHWM") / 2**20}
    start = time.perf_counter()
    again = parts()
    found["in batches"] = time.perf_counter() - start
    found["apart"] = max(float(np.abs(again[name] - statistics[name]).max()) for name in statistics)
    return {**found, "statistics": {name: part.tolist() for name, part in statistics.items()}}


def at_once(session: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {"input": x, "momentum": np.ones(1, np.float32)})
    return {name.removeprefix("batch/"): part for name, part in zip(names, found, strict=True)}


def layer_by_layer(session: Any, batches: list[np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    reached = onnxruntime.RunOptions()
    reached.only_execute_path_to_fetches = True
    names = [output.name for output in session.get_outputs()]
    share = np.array([len(x) for x in batches]) / sum(len(x) for x in batches)
    statistics: dict[str, np.ndarray] = {}
    for layer in zip(names[::2], names[1::2], strict=True):
        parts = [session.run(layer, {"input": x, **statistics}, reached) for x in batches]
        means, variances = (np.stack(part) for part in zip(*parts, strict=True))
        mean = share @ means
        for name, part in zip(layer, (mean, share @ (variances + (means - mean) ** 2)), strict=True):
            statistics[name.removeprefix("batch/")] = part.astype(np.float32)
    return statistics


def child(mode: str, kind: str, folder: Path, repeats: int) -> dict[str, Any]:
    """The result of one of the two functions above, in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--child", mode, kind, "--repeats", str(repeats)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def size(kind: str, folder: Path, task: dict[str, Any]) -> float:
    """MiB of the files that a runtime reads."""
    own = {"safetensors": ["model.json"], "moments": [task.get("moments")]}.get(kind, [task.get(kind)])
    weights = [] if kind in ("pt2", "pte") else ["model.safetensors"]
    return sum((folder / name).stat().st_size for name in [*own, *weights]) / 2**20


def exported(given: argparse.Namespace, out: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a user's model, with the pictures of a task beside the files."""
    from dua_lightning import personal_models, save
    from dua_lightning.run.draws import Draws
    from dua_lightning.run.finished import read

    whole = next(personal_models(given.run, given.user, given.row))
    model = replace(whole, tasks=(whole.task(given.task or whole.tasks[0].name),))
    folder = save(model, out)
    (user,) = [one for one in Draws(read(given.run)[0]).benchmark.users if one.user == model.user]
    (task,) = json.loads((folder / "model.json").read_text())["tasks"]
    data = user.draw(1).of(model.tasks[0])
    for name, batches in (("evaluation", data.evaluation_batches()), ("adaptation", data.adaptation_batches())):
        np.save(out / f"{name}.npy", np.concatenate([x.numpy() for x, _ in batches]))
    (out / "task.json").write_text(json.dumps({**task, "folder": folder.name}))
    return folder, task


def softmax(logits: list[list[float]]) -> np.ndarray:
    exp = np.exp(np.array(logits) - np.max(logits, axis=1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--row", help="the row, where the run has several")
    parser.add_argument("--user", help="the user (default: the first)")
    parser.add_argument("--task", help="the task (default: the first)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        mode, kind = given.child
        task = json.loads((given.run / "task.json").read_text())
        x = np.load(given.run / f"{'evaluation' if mode == 'measured' else 'adaptation'}.npy")
        x = x if mode == "measured" else x[:PICTURES]
        function = measured if mode == "measured" else adapted
        print(json.dumps(function(kind, given.run / task["folder"], task, x, given.repeats)))
        return
    with tempfile.TemporaryDirectory() as out:
        folder, task = exported(given, Path(out))
        lines, expected = [], None
        for runtime, kind in KINDS.items():
            if kind != "safetensors" and kind not in task:
                continue
            found = child("measured", kind, Path(out), given.repeats)
            probabilities = softmax(found.pop("logits"))
            expected = probabilities if expected is None else expected
            parity = float(np.abs(probabilities - expected).max())
            lines.append({"runtime": runtime, "MiB": size(kind, folder, task), **found, "parity": parity})
            print({name: f"{x:.3g}" if isinstance(x, float) else x for name, x in lines[-1].items()}, flush=True)
        print(f"{len(expected)} evaluation pictures of {task['name']}")
        reference = None
        for runtime, kind in ADAPTS.items():
            if "moments" not in task:
                continue
            found = child("adapted", kind, Path(out), given.repeats)
            statistics = found.pop("statistics")
            reference = reference or statistics
            parity = max(float(np.abs(np.subtract(statistics[name], reference[name])).max()) for name in statistics)
            print(
                f"AdaBN, {runtime}:",
                {name: f"{x:.3g}" for name, x in found.items()},
                f"parity {parity:.2g}",
                flush=True,
            )
    import pandas as pd

    from dua_lightning.store.files import replacing

    with replacing(given.out / "export.csv") as temporary:
        pd.DataFrame(lines).to_csv(temporary, index=False)


if __name__ == "__main__":
    main()
