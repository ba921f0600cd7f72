"""What numba compiles, and when it is loaded."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from dua_lightning import compiled


def test_where_nothing_can_be_kept_a_loop_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compiled.njit

    def homeless(function: Callable[..., object], *, cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function")
        return njit(function, **options)

    monkeypatch.setattr(compiled, "njit", homeless)
    assert compiled.compiled(lambda x: x + 1)(1) == 2


def test_results_are_in_the_order_of_the_items_and_errors_come_through() -> None:
    assert compiled.in_threads(lambda item: item**2, range(100)) == [item**2 for item in range(100)]
    with pytest.raises(ZeroDivisionError):
        compiled.in_threads(lambda item: 1 // item, [1, 0])


def test_only_those_who_measure_large_convolutions_load_it() -> None:
    code = (
        "import sys, torch\n"
        "from dua_lightning.importance import MAS\n"
        "from dua_lightning.tasks import Expert, Task\n"
        "for width in (2, 64):\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(width, width, 3), torch.nn.Flatten())\n"
        "    MAS()(net, Expert(Task('a', slice(0, 2)), net.state_dict()), [(torch.rand(32, width, 14, 14), None)])\n"
        "    print('numba' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
