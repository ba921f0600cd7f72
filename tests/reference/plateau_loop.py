"""The learning-rate rule of the paper's Section 5.1, one epoch after the other."""

from collections.abc import Iterable


def plateau(
    accuracies: Iterable[float], lr: float, patience: int = 5, factor: float = 0.1, stop_after: int = 5
) -> tuple[list[float], int]:
    """Learning rate of each epoch that runs, and the best epoch, for the validation accuracies that epochs would have.

    `patience` epochs in a row not strictly above the best: the rate drops. `stop_after` more: training stops. After an
    improvement the count starts anew, at the rate reached.
    """
    rates: list[float] = []
    best, best_epoch, waited = float("-inf"), -1, 0
    for epoch, accuracy in enumerate(accuracies):
        rates.append(lr)
        if accuracy > best:
            best, best_epoch, waited = accuracy, epoch, 0
        else:
            waited += 1
        if waited == patience:
            lr = lr * factor
        if waited == patience + stop_after:
            break
    return rates, best_epoch
