"""Loaded into a child whose settings may ask for years: everything is checked as it is, and then done once only."""

from dataclasses import replace
from functools import wraps
from typing import Any

from lightning import Trainer

from dua_lightning.adapt import adabn_s, finetune, without_labels
from dua_lightning.data import digits

_fit, _descend, _assemble = Trainer.fit, finetune.descend, digits.assemble


@wraps(_fit)
def _one_epoch(self: Trainer, *args: Any, **more: Any) -> Any:
    for name, value in (("min_epochs", None), ("max_epochs", 1), ("min_steps", None)):
        if getattr(self.fit_loop, name, None) not in (0, None):
            setattr(self.fit_loop, name, value)
    return _fit(self, *args, **more)


def _one_pass(net: Any, optimizer: Any, task: Any, data: Any, epochs: int, *objective: Any) -> None:
    _descend(net, optimizer, task, data, min(epochs, 1), *objective)


def _one_draw(*args: Any, **more: Any) -> Any:
    benchmark = _assemble(*args, **more)
    return replace(benchmark, iterations=min(benchmark.iterations, 1))


Trainer.fit = _one_epoch  # type: ignore[method-assign]
finetune.descend = adabn_s.descend = without_labels.descend = _one_pass
digits.assemble = _one_draw
