"""The names of a training's curves and their place in a run, which loggers write to and reports read."""

from dua_lightning.report.characters import filename

METRICS = "metrics.csv"
"""The file in which Lightning's CSVLogger keeps curves."""
EPOCH, LOSS, ACCURACY = CURVE = ["epoch", "train_loss", "val_accuracy"]
"""The columns of a training's curve."""


def several(seed: object) -> bool:
    """Say whether a run has several seeds, which the places of its curves then tell apart.

    Args:
        seed: The run's setting `seed`: a number or a list of numbers.

    Returns:
        Whether it is a list of several.
    """
    return isinstance(seed, list) and len(seed) > 1


def place(seed: int | None, training: str, task: str) -> tuple[str, ...]:
    """Name the folders of a training's curves.

    Args:
        seed: The seed where the run has several; None where it has one, so that curves of several runs have one name.
        training: The label of the experts that are trained.
        task: The name of the task.

    Returns:
        Two folders, one in the other, within the seed's where there is one.
    """
    return *(() if seed is None else (f"seed_{seed}",)), filename(training), filename(task)
