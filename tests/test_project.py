"""The project's own files agree: workflows, Makefile, package and the sdist."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/workflows/*.yml")}
FORMS = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")}
JOBS = {f"{name}.{job}": body for name, workflow in WORKFLOWS.items() for job, body in workflow["jobs"].items()}


def steps(job: str) -> list[dict[str, Any]]:
    return JOBS[job]["steps"]


def test_the_package_says_on_which_pythons_it_is_tested() -> None:
    tested = JOBS["ci.test"]["strategy"]["matrix"]["python"]
    said = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: \d\.\d", line)]
    assert tested == said
    assert PROJECT["requires-python"].startswith(f">={tested[0]}.")
    # A job beside the tests takes the lowest one, which the others must not be behind.
    others = [step["with"]["python-version"] for job in JOBS for step in steps(job) if "python" in step.get("uses", "")]
    assert {*others} == {tested[0], "${{ matrix.python }}"}


def test_a_workflow_calls_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = {
        word for job in JOBS for step in steps(job) for word in re.findall(r"^\s*make .*", step.get("run", ""), re.M)
    }
    targets = {line.split()[-1] for line in called}
    assert {"lint", "test", "docs", "dist"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("job", JOBS)
def test_a_job_may_do_little(job: str) -> None:
    """It reads the source, or it publishes and then runs nothing of the source."""
    rights = JOBS[job].get("permissions", WORKFLOWS[job.partition(".")[0]]["permissions"])
    assert rights == ({"id-token": "write"} if job == "release.publish" else {"contents": "read"})
    if job == "release.publish":
        assert not any("run" in step or "checkout" in step["uses"] for step in steps(job))
    assert JOBS[job]["timeout-minutes"] <= 120
    for step in steps(job):
        if "uses" in step:
            # A tag can be moved to other code, and a commit cannot.
            assert re.fullmatch(r"(actions|pypa)/[\w-]+@[0-9a-f]{40}", step["uses"])
        if "checkout" in step.get("uses", ""):
            assert step["with"] == {"persist-credentials": False}
        # The shell would run code that somebody writes into a title or a branch's name.
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("form", [form for form in FORMS if form != "config"])
def test_a_form_asks_each_thing_once(form: str) -> None:
    asked = [item for item in FORMS[form]["body"] if item["type"] != "markdown"]
    assert len({item["id"] for item in asked}) == len({item["attributes"]["label"] for item in asked}) == len(asked)
    assert any(item.get("validations", {}).get("required") for item in asked)
    assert FORMS[form]["name"]
    assert FORMS[form]["description"]


@pytest.mark.slow
def test_the_sdist_has_its_tests_and_they_pass(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / packed.name.removesuffix(".tar.gz")

    def run(*arguments: str) -> str:
        path = os.pathsep.join([str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # Everything can be imported, and the pages, the settings and this file find what they name.
    assert int(re.findall(r"(\d+) tests collected", run("--collect-only", "-m", ""))[0]) > 1000
    run(
        "tests/test_words.py",
        "tests/test_docs.py",
        "tests/test_site.py",
        "tests/test_project.py",
        "tests/test_wheel.py",
    )
