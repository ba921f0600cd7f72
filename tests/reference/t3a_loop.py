"""T3A's templates: one class and one support at a time."""

import math


def t3a(
    rows: list[list[float]], biases: list[float], features: list[list[float]], filter_k: int | None
) -> list[list[float]]:
    """The direction of each class's template: the mean of the surest supports, each of norm 1."""
    supports: list[list[tuple[float, list[float]]]] = [[] for _ in rows]
    for place, z in enumerate([*rows, *features]):
        logits = [sum(w * v for w, v in zip(row, z, strict=True)) + b for row, b in zip(rows, biases, strict=True)]
        top = max(logits)
        p = [math.exp(logit - top) for logit in logits]
        p = [q / sum(p) for q in p]
        unsure = -sum(q * math.log(q) for q in p if q > 0)
        supports[place if place < len(rows) else logits.index(top)].append((unsure, z))
    templates = []
    for of_class in supports:
        kept = [z for _, z in sorted(of_class, key=lambda one: one[0])][:filter_k]
        total = [0.0] * len(rows[0])
        for z in kept:
            norm = math.sqrt(sum(v * v for v in z))
            total = [t + v / norm for t, v in zip(total, z, strict=True)]
        norm = math.sqrt(sum(t * t for t in total))
        templates.append([t / norm for t in total])
    return templates
