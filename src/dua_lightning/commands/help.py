"""`dua --help`: every choice of every group.

Hydra's own help composes lists of choices for all groups, its own too, and takes a second; this lists folders.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

BEFORE = """dua_lightning: personal models without the user's data leaving the device.

Every word below is a choice: GROUP=CHOICE, or GROUP=CHOICE,CHOICE with -m to
sweep.
"""
"""The text before the choices."""

AFTER = r"""
Any value of the configuration can be set as well: seed=[1,2,3]
trainer.max_epochs=5 paths.output_dir=DIR paths.data_dir=DIR. `--cfg job` shows
them all, `debug=true` the traceback of an error, `--version` what this is. In
bash, eval "$(dua -sc install=bash)" completes words; see docs/guide.md.

To copy:
  dua init DIR        # an example of pictures of your own
  dua +experiment=own_users data.images.root=DIR
  dua +experiment=digits
  dua method=task_experts seed=2
  dua -m method=racl,imm importance=mas,fim seed=1,2,3
  dua -m regularise=l2_transfer,ewc merge=mode,mean \
    adapt=none,adabn model=vgg11_bn data=transprior data/images=photos
  dua store --help    # entries that earlier runs have kept
  dua report --help   # one page of what runs found
  dua compare --help  # the differences between two
  dua ledger --help   # what each step adds for users
  dua choose --help   # settings chosen without users
  dua rates --help    # rates of ATP, on simulated users
  dua export --help   # users' models of a run, as files
  dua predict --help  # classes of pictures by such a model
  dua privacy --help  # what users' priors give away
  dua serve --help    # a run's experts for real devices
  dua device --help   # a user's device
  dua dashboard --help  # the runs of a project in W&B
"""
"""The text after them."""


def text(conf: Path, arguments: Sequence[str]) -> str:
    """Write the help.

    Args:
        conf: The folder of the configuration.
        arguments: The words of the command line, which may name further folders by `hydra.searchpath`.

    Returns:
        The text.
    """
    named = [word for one in arguments if one.startswith("hydra.searchpath=") for word in re.split(r"[=\[\],]", one)]
    folders = [conf, *(Path(word.removeprefix("file://")) for word in named if word.startswith("file://"))]
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.glob("*/**/*.yaml"):
            group = file.parent.relative_to(folder).as_posix()
            if group.partition("/")[0] != "hydra":
                groups.setdefault(group, set()).add(file.stem)
    lines = [
        fill(f"{group}: {', '.join(sorted(groups[group]))}", 80, subsequent_indent="  ") for group in sorted(groups)
    ]
    return "\n".join([BEFORE, *(fill(line, 80, subsequent_indent="  ") for line in lines), AFTER])
