"""Functions that numba compiles, and when it is loaded."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from dua_lightning.kernels import compiled


def test_where_nothing_can_be_kept_a_loop_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compiled.njit

    def homeless(function: Callable[..., object], *, cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function")
        return njit(function, **options)

    monkeypatch.setattr(compiled, "njit", homeless)
    assert compiled.compiled(lambda x: x + 1)(1) == 2


def test_each_item_has_its_result_and_errors_come_through() -> None:
    assert sorted(compiled.in_threads(lambda item: item**2, range(100))) == [item**2 for item in range(100)]
    with pytest.raises(ZeroDivisionError):
        compiled.in_threads(lambda item: 1 // item, [1, 0])


USES = {
    "merging": (
        "from dua_lightning.merge import Mode",
        (1000, 1 << 20),
        "Mode()([Expert(TASK, {'w': torch.rand(size)})], [{'w': torch.rand(size)}], {})",
    ),
    "measuring convolutions": (
        "from dua_lightning.importance import MAS",
        (2, 64),
        "net = torch.nn.Sequential(torch.nn.Conv2d(size, size, 3), torch.nn.Flatten())\n"
        "    MAS()(net, Expert(TASK, net.state_dict()), [(torch.rand(64, size, 10, 10), None)])",
    ),
}
"""Import, a small and a large size, and what is done with one."""


@pytest.mark.parametrize("use", USES)
def test_large_networks_take_the_loop_and_small_ones_never_load_it(use: str) -> None:
    imported, sizes, done = USES[use]
    code = (
        f"import sys, torch\n{imported}\n"
        "from dua_lightning.tasks import Expert, Task\n"
        "TASK = Task('a', slice(0, 2))\n"
        f"for size in {sizes}:\n"
        f"    {done}\n"
        "    print('numba' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]
