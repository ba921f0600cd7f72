"""Command lines at random: settings that exist and others, values of every kind, and what only looks like one."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how
from hypothesis import strategies as st
from omegaconf import DictConfig

from dua_lightning.__main__ import CONF
from tests.faults import alone
from tests.helpers.cli import TINY, Done, refused

BASES = (
    (),
    ("method=lwf",),
    ("method=imm", "importance=fim"),
    ("method=task_experts", "adapt=finetune"),
    ("method=mean_imm", "statistics=server"),
)

NUMBERS = (
    *(
        "0",
        "-1",
        "1",
        "1",
        "2",
        "2",
        "3",
        "0.5",
        "1.5",
        "-0.0",
        "1e-3",
        "1e-320",
        "1e9",
        "1e308",
        "1e309",
        "-1e9",
        "999999999999999999999",
    ),
    *("nan", "inf", "-inf", ".nan", ".inf", "-.inf", "0x10", "1_000", "2147483648", "9223372036854775808"),
)
WORDS = (
    *("", "null", "true", "false", "none", "''", '""', "[]", "{}", "[1,2]", "{a:1}", "[[]]", "x", "ü", "/", "..", "~"),
    *("[1", "{a", "'", '"', "a=b", "=", "1,2", ",", "[,]", "${seed}", "${", "${nothing.here}", "${oc.env:NOTHING}"),
    *("${oc.env:HOME}", "${seed", "$", "\\", "a b", "???", "[bold]", "[/x]", "a\tb", "\U0001f600", "choice(1,2)"),
    *("range(0)", "range(3)", "glob(*)", "sort()", "extend_list(1)", "${now:%Y}", "${hydra:run.dir}", "%s", "@"),
    *("digits", "mlp", "racl", "all", "mas", "fim", "adabn", "adabn_s", "photos", "numbers", "released", "vgg11_bn"),
    *("dua_lightning.nets.mlp", "os.system", "builtins.print", "builtins.dict", "dua_lightning.nothing", "a.b"),
    *("/dev/null/x", "/proc/nothing", "/dev/full", "x" * 300, "a\0b".replace("\0", "\\0"), "[1,null]", "[1,1]", "[-1]"),
)
GROUPS = (
    *("data", "data/images", "model", "method", "regularise", "importance", "merge", "statistics", "adapt", "trainer"),
    *("logger", "paths", "fidelity"),
)

NOT_ASKED = ("debug",)
"""Asks for the traceback."""


@cache
def settings() -> tuple[str, ...]:
    """Every setting of the configurations behind `BASES`, nodes as well as leaves."""
    found: dict[str, None] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for base in BASES:
            found |= dict.fromkeys(_names(compose("config", [*TINY, *base])))
    return tuple(name for name in found if name not in NOT_ASKED)


def _names(node: DictConfig, before: str = "") -> list[str]:
    names: list[str] = []
    for key in node:
        names.append(f"{before}{key}")
        child_node: Any = node._get_node(key)
        if isinstance(child_node, DictConfig) and not child_node._is_interpolation() and not child_node._is_none():
            names += _names(child_node, f"{before}{key}.")
    return names


@st.composite
def overrides(draw: st.DrawFn) -> tuple[str, ...]:
    """A command line: a base and something odd, sometimes two things."""
    return (*draw(st.sampled_from(BASES)), *draw(st.lists(_override(), min_size=1, max_size=2)))


@st.composite
def _override(draw: st.DrawFn) -> str:
    # Settings that can be read are the larger part: others are refused in one place.
    known = st.sampled_from(settings())
    key = draw(st.one_of(known, known, known, known, st.sampled_from(GROUPS), _misspelt()))
    number = st.one_of(st.sampled_from(NUMBERS), st.integers(-(2**40), 2**40).map(str), st.floats().map(str))
    letters = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
    value = draw(st.one_of(number, number, st.sampled_from(WORDS), st.sampled_from(WORDS), letters))
    prefix = draw(st.sampled_from(("",) * 12 + ("+", "++", "~")))
    sign = draw(st.sampled_from(("=",) * 18 + ("", "==")))
    return f"{prefix}{key}{sign}{value}"


@st.composite
def _misspelt(draw: st.DrawFn) -> str:
    key = draw(st.sampled_from(settings()))
    at = draw(st.integers(0, len(key) - 1))
    letter = draw(st.sampled_from("abz._-1 ü"))
    # A word that begins with "-" is an option, which Hydra's parser of options refuses with its usage.
    return (key[:at] + letter + key[at + draw(st.integers(0, 1)) :]).lstrip("-")


def run(arguments: tuple[str, ...]) -> Done:
    """The command line on a tiny benchmark, in an empty folder."""
    with TemporaryDirectory() as folder:
        cwd = Path(folder) / "cwd"
        cwd.mkdir()
        given = (*TINY, "logger=none", *arguments)
        return alone.run(*given, cwd=cwd, first=["tests.faults.short"], seconds=60)


def fault(done: Done) -> str:
    """Say what is wrong with the end of a run; empty where it ran, or was refused in one line."""
    fine = refused(done) or (done.status == 0 and "Traceback" not in done.out + done.err)
    return "" if fine else f"status {done.status}: {done.err[-2000:]}"


def drawn(count: int) -> list[tuple[str, ...]]:
    """The first `count` command lines of a fixed order; drawn before they are run, so that they run side by side."""
    found: list[tuple[str, ...]] = []

    @how(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(overrides())
    def draw(arguments: tuple[str, ...]) -> None:
        found.append(arguments)

    draw()
    return found


def verdicts(command_lines: Sequence[tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each command line, and what is wrong with how it ends; two at a time."""

    def verdict(arguments: tuple[str, ...]) -> str:
        try:
            return fault(run(arguments))
        except TimeoutError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        yield from zip(command_lines, pool.map(verdict, command_lines), strict=True)
