"""The class prior of unlabelled images by EM: one image and one class at a time."""


def class_prior(
    probabilities: list[list[float]], source: list[float], pseudo_count: float, iterations: int
) -> list[float]:
    """After so many iterations: how many images each class has, were each shared out by what it is believed to be."""
    classes = len(source)
    prior = list(source)
    for _ in range(iterations):
        counts = [pseudo_count * classes * s for s in source]
        for row in probabilities:
            joint = [p * prior[c] / source[c] for c, p in enumerate(row)]
            for c in range(classes):
                counts[c] += joint[c] / sum(joint)
        prior = [count / sum(counts) for count in counts]
    return prior
