"""The pages are true: their Python runs, their commands compose, their links lead somewhere, and their files exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def executed(page: str) -> dict[str, Any]:
    """The names that the Python of a page leaves, all blocks run one after another."""
    scope: dict[str, Any] = {}
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), scope)
    return scope


def test_the_library_example_of_the_readme_merges_two_users_models() -> None:
    scope = executed("README.md")
    body = "body.1.weight"
    merged, (first, second) = scope["personal"]["2-3"][body], [e.state[body] for e in scope["experts"]]
    assert torch.equal(scope["net"].state_dict()[body], merged)
    assert not torch.equal(merged, first)
    assert ((merged >= torch.minimum(first, second)) & (merged <= torch.maximum(first, second))).all()


def test_the_tutorial_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        scope = executed("docs/tutorial.md")
    printed = [line for line in capsys.readouterr().out.splitlines() if "after AdaBN" in line]
    (said,) = blocks("docs/tutorial.md", "text")
    numbers = r"[0-9]+\.[0-9]"
    assert [re.sub(numbers, "", line) for line in printed] == [re.sub(numbers, "", line) for line in said.splitlines()]
    found, expected = (torch.tensor([float(n) for n in re.findall(numbers, "".join(t))]) for t in (printed, said))
    # Another build of torch rounds otherwise.
    assert (found - expected).abs().max() <= 5, printed
    task, test = scope["TASKS"][0], scope["pictures"](scope["TASKS"][0], 500, None)
    for learner, regulariser in ((scope["module"], scope["ewc"]), (scope["student"], scope["lwf"])):
        assert scope["accuracy"](learner, learner.state_dict(), task, test) > 85
        assert len(getattr(regulariser, "tasks", "12")) == 2
    assert scope["ewc"].learnt == 2
