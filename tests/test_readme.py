"""The README's code runs as it stands."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_library_example_merges_two_users_models() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), scope)
    body = "body.1.weight"
    merged, (first, second) = scope["personal"]["2-3"][body], [e.state[body] for e in scope["experts"]]
    assert torch.equal(scope["net"].state_dict()[body], merged)
    assert not torch.equal(merged, first)
    assert ((merged >= torch.minimum(first, second)) & (merged <= torch.maximum(first, second))).all()
