"""`dua device`: a user's device: it measures on its own pictures, receives its personal model and adapts it."""

from argparse import Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.report.terminal import Terminal


def main(arguments: Sequence[str]) -> int:
    """Take part until the device has its model, or make the device's keys.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: A key, a certificate or the pictures cannot be used, or the server does not take the device.
    """
    parser = Parser(prog="dua device", description=__doc__)
    parser.add_argument("--server", metavar="HOST:PORT", help="the address of dua serve")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the user's pictures: DIR/TASK/*, or DIR/*")
    parser.add_argument("--name", help="the user's name (default: that of DIR)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="the device's folder (default: device-NAME)")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the server's ca.crt (default: ca.crt in --state)")
    parser.add_argument("--exchange", type=Path, metavar="DIR", help="a folder that the server reaches too")
    parser.add_argument(
        "--above", type=float, default=64, metavar="MIB", help="priors above so many MiB go through it (default: 64)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the processor (default: 1)")
    parser.add_argument(
        "--code",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside this one that may build the network; may be given again",
    )
    parser.add_argument(
        "--new-keys", action="store_true", help="make the device's keys and print its card, which the server needs"
    )
    parser.add_argument("--insecure", action="store_true", help="without encryption, for tests on one machine")
    given = parser.parse_args(arguments)
    name = given.name or (given.images and given.images.absolute().name)
    if not name:
        raise InputError("dua device takes --images DIR or --name NAME; dua device --help shows how")
    given.name = name
    given.state = (given.state or Path(f"device-{name}")).absolute()
    if given.new_keys:
        from dua_lightning.federation.keys import new_device

        Terminal().print(f"  {new_device(given.state, name)}")
        return 0
    return _run(given)


def _run(given: Namespace) -> int:
    if given.server is None or given.images is None:
        raise InputError("dua device takes --server HOST:PORT and --images DIR; dua device --help shows how")
    if find_spec("flwr") is None:
        raise InputError("dua device needs the package flwr; pip install 'dua_lightning[federation]'")
    if not given.images.is_dir():
        raise InputError(f"{given.images} is not a folder; give the one that holds the pictures")
    if not any(path.is_file() for path in given.images.rglob("*")):
        raise InputError(f"{given.images} has no pictures; put them there as TASK/*")
    if given.threads < 1:
        raise InputError(f"--threads {given.threads} cannot be used: it is at least 1")
    ca = None if given.insecure else given.ca or given.state / "ca.crt"
    if ca is not None and not ca.is_file():
        raise InputError(f"{ca} is not there; give the server's ca.crt by --ca FILE")
    console = Terminal()
    from dua_lightning.federation.keys import CONNECTION, PRIORS, new_device

    if not all((given.state / key).exists() for key in (CONNECTION, PRIORS)):
        raise InputError(
            f"{given.state} has no keys; make them by dua device --new-keys --name {given.name} --state {given.state}, "
            "and give the card to the server's operator"
        )
    new_device(given.state, given.name)
    from dua_lightning.federation.address import refuse_silent

    refuse_silent(given.server)
    from dua_lightning.federation import supernode

    config: dict[str, Any] = {
        "state": str(given.state),
        "images": str(given.images.absolute()),
        "name": given.name,
        "exchange": "" if given.exchange is None else str(given.exchange.absolute()),
        "large": int(given.above * (1 << 20)),
        "code": ",".join(given.code),
        "threads": given.threads,
    }
    device = supernode.run(given.server, config, ca, lambda one: one.done or one.refused is not None)
    if device.refused:
        raise InputError(device.refused)
    console.print(f"  {device.finished}")
    return 0
