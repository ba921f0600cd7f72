"""Loaded into a child whose settings may ask for years: everything is checked as it is, and then done once only."""

from dataclasses import replace
from functools import wraps
from typing import Any

from dua_lightning.adapt import adabn_s, finetune
from dua_lightning.data import digits
from dua_lightning.training import training

_Trainer, _descend, _assemble = training.Trainer, finetune.descend, digits.assemble


@wraps(_Trainer)
def _one_epoch(*args: Any, max_epochs: int, **more: Any) -> Any:
    return _Trainer(*args, max_epochs=min(max_epochs, 1), **more)


def _one_pass(net: Any, optimizer: Any, task: Any, data: Any, epochs: int) -> None:
    _descend(net, optimizer, task, data, min(epochs, 1))


def _one_draw(*args: Any, **more: Any) -> Any:
    benchmark = _assemble(*args, **more)
    return replace(benchmark, iterations=min(benchmark.iterations, 1))


training.Trainer = _one_epoch  # type: ignore[misc]
finetune.descend = adabn_s.descend = _one_pass
digits.assemble = _one_draw
