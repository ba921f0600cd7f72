"""LwF's distillation: image by image, task by task, class by class."""

from collections.abc import Sequence
from math import exp, log


def lwf(
    student: Sequence[Sequence[float]],
    teacher: Sequence[Sequence[float]],
    columns: Sequence[range],
    temperature: float,
    strength: float,
) -> float:
    """strength * sum over tasks of the mean over images of - sum_c q_c log p_c; `columns` are those of each task."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for task in columns:
            p_sum = sum(exp(s[c] / temperature) for c in task)
            q_sum = sum(exp(t[c] / temperature) for c in task)
            for c in task:
                total -= exp(t[c] / temperature) / q_sum * log(exp(s[c] / temperature) / p_sum)
    return strength * total / len(student)
