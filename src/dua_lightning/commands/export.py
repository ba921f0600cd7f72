"""`dua export`: the final model of each user of a run, as files that other programs read."""

from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.progress import shown
from dua_lightning.report.terminal import Terminal

KINDS = ("safetensors", "pt2", "onnx", "pte")
"""The formats; those of `personal.files.FORMATS`, which take torch to load."""


def main(arguments: Sequence[str]) -> int:
    """Write a folder for each user and print its name.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: The run cannot be read, or a model cannot be made or written.
    """
    parser = Parser(prog="dua export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--user", action="append", metavar="NAME", help="a user; may be given again (default: all)")
    parser.add_argument("--row", metavar="LABEL", help="the row, by its name in tables, where the run has several")
    parser.add_argument("--seed", type=int, metavar="S", help="the seed (default: the run's first)")
    parser.add_argument("--draw", type=int, default=1, metavar="N", help="the draw of users' halves (default: 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: `models` in RUN)")
    parser.add_argument(
        "--formats",
        metavar="FORMAT,..",
        help=f"{','.join(KINDS)}; the first one is always written (default: all that are installed)",
    )
    given = parser.parse_args(arguments)
    kinds = None if given.formats is None else given.formats.split(",")
    if unknown := [kind for kind in kinds or () if kind not in KINDS]:
        raise InputError(f"--formats {given.formats} cannot be used: {unknown[0]} is none of {', '.join(KINDS)}")
    # Help does without torch, which takes seconds to load.
    from dua_lightning.personal import personal_models, save
    from dua_lightning.personal.files import size
    from dua_lightning.personal.formats import EXTRAS, lacking

    out: Path = given.out or given.run / "models"
    # Standard output has the folders alone, each as soon as it is there.
    with shown(Terminal(stderr=True)):
        for model in personal_models(given.run, given.user, given.row, given.seed, given.draw):
            folder = save(model, out, kinds)
            of = f"{model.row}, seed {model.seed}, draw {given.draw}"
            Terminal().print(f"  {folder}  {decimal(size(folder))}  {of}")
    for kind in KINDS:
        if kinds is None and lacking(kind):
            Terminal(stderr=True).print(f"no {kind} is written: pip install 'dua_lightning[{EXTRAS[kind]}]'")
    return 0
