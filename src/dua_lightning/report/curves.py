"""The place of a training's curves within a run's folder, which loggers write to and reports read."""

from dua_lightning.report.characters import filename

METRICS = "metrics.csv"
"""The file in which Lightning's CSVLogger keeps curves."""


def place(seed: int, training: str, task: str) -> tuple[str, str, str]:
    """Name the folders of a training's curves.

    Args:
        seed: The run's seed.
        training: The label of the experts that are trained.
        task: The name of the task.

    Returns:
        Three folders, one in the other.
    """
    return f"seed_{seed}", filename(training), filename(task)
