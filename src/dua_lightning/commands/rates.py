"""`dua rates`: the rates of ATP, learnt on users whom the server simulates."""

from collections.abc import Sequence
from pathlib import Path

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.progress import shown
from dua_lightning.report.terminal import Terminal


def main(arguments: Sequence[str]) -> int:
    """Learn the rates on all users and tasks of a run, write them, and print the file's name.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: The run cannot be read, its users are the benchmark's own or have no labels, its row adapts already,
            or the rates cannot be learnt or written.
    """
    parser = Parser(prog="dua rates", description=__doc__)
    parser.add_argument("run", type=Path, metavar="SIMULATED_RUN", help="a run with simulate=... and adapt=none")
    parser.add_argument("--row", metavar="LABEL", help="the row, by its name in tables, where the run has several")
    parser.add_argument("--seed", type=int, metavar="S", help="the seed (default: the run's first)")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="steps on the rates (default: 200)")
    parser.add_argument("--lr", type=float, default=0.1, metavar="RATE", help="their learning rate (default: 0.1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: SIMULATED_RUN)")
    given = parser.parse_args(arguments)
    # Help does without torch, which takes seconds to load.
    from dua_lightning.adapt import Unchanged
    from dua_lightning.adapt.atp import learn_rates, save_rates
    from dua_lightning.personal.finished import finals

    clients, net = [], None
    with shown(Terminal(stderr=True)):
        for final in finals(given.run, None, given.row, given.seed):
            if final.draws.settings.simulate.node.get("_target_") is None:
                raise InputError(
                    f"{given.run} has the benchmark's own users, who must not be seen; rates are learnt on a run with "
                    "simulate=both"
                )
            if type(final.row.phi) is not Unchanged:
                raise InputError(f"{final.row.label} adapts already; name a row with adapt=none, of the same merge")
            net = final.draws.net
            own = ((task, final.data.of(task)) for task in final.draws.benchmark.tasks)
            clients += [
                (final.states[task.name], task, list(of_task.val_dataloader()))
                for task, of_task in own
                if len(of_task.validation)
            ]
        if net is None:
            raise InputError(f"{given.run} has no users with labels, on which rates are learnt")
        path = save_rates(learn_rates(net, clients, given.rounds, given.lr), given.out or given.run)
    console = Terminal()
    console.print(f"  {path}")
    console.print(f"learnt on {len(clients)} tasks of simulated users; use it as adapt=atp adapt.rates={path}")
    return 0
