"""One training in several processes of this machine: what a rank knows of the others, and how they begin and end."""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dua_lightning.errors import InputError

BUCKET_BYTES = 4 * 2**20
"""Gradients are summed together from this size on: a message costs a small weight more than its bytes do, while a large
one travels alone as the backward pass goes on."""

HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals of a terminal and of a cluster, which reach every process of a group: the caller heeds them, and ends the
other ranks."""

GRACE = 2.0
"""Seconds in which the end of another rank is looked for where a failure here may follow from it."""


class Ranks:
    """Rank `rank` of `count`. All ranks call the same methods in the same order, with tensors of the same shapes.

    What they sum is the same in every rank to the last bit.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank = rank
        self.count = count
        self._waiting: list[tuple[Tensor, Callable[[], None]]] = []
        self._bytes = 0
        self._under_way: list[tuple[list[tuple[Tensor, Callable[[], None]]], Tensor, dist.Work]] = []

    def rows(self, n: int) -> slice:
        """This rank's of `n` rows: as many as another's, or one more or less; perhaps none."""
        return slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def sum_(self, tensor: Tensor) -> None:
        """The sum over all ranks, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)

    def add(self, gradient: Tensor, then: Callable[[], None]) -> None:
        """Sum `gradient` over all ranks in place, and call `then`: at once for a rank alone, otherwise in `settle`."""
        if self.count == 1:
            then()
            return
        self._waiting.append((gradient, then))
        self._bytes += gradient.nbytes
        if self._bytes >= BUCKET_BYTES:
            self._send()

    def settle(self) -> None:
        """Finish what was added since the last call, in its order."""
        if self.count == 1:
            return
        if self._waiting:
            self._send()
        for bucket, flat, work in self._under_way:
            work.wait()
            with torch.no_grad():
                for (gradient, then), part in zip(bucket, flat.split([g.numel() for g, _ in bucket]), strict=True):
                    gradient.copy_(part.view_as(gradient))
                    then()
        self._under_way.clear()

    def _send(self) -> None:
        flat = torch.cat([gradient.flatten() for gradient, _ in self._waiting])
        self._under_way.append((self._waiting, flat, dist.all_reduce(flat, async_op=True)))
        self._waiting, self._bytes = [], 0


ALONE = Ranks(0, 1)


@contextmanager
def started(work: Callable[..., object], devices: Sequence[torch.device]) -> Iterator[Ranks]:
    """The caller as rank 0 of as many ranks as `devices`, while processes of their own run `work(ranks=...)`.

    They run on as many threads each as the caller, heed no signals, and end with the block, or with the caller however
    that ends. `work` and what it holds are copied to them, tensors too: `work` must be able to be pickled.

    Raises what ended another rank instead of what followed from it here: `InputError` as it was raised there, or where
    the process was killed; `RuntimeError` with the other rank's traceback for the rest.
    """
    if dist.is_initialized():
        raise InputError(
            f"trainer.devices={len(devices)} cannot be used within a group of torch.distributed: it starts one of its "
            "own; use trainer.devices=1"
        )
    try:
        # By itself multiprocessing would share the tensors' memory, and the ranks would move one set of weights.
        copied = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"trainer.devices={len(devices)} cannot be used: the network, the data or the regulariser cannot be copied "
            f"to another process ({error}); use trainer.devices=1"
        ) from error
    others: list[_Other] = []
    with TemporaryDirectory(prefix="dua-ranks-") as folder:
        store = Path(folder, "store")
        try:
            for rank in range(1, len(devices)):
                others.append(_Other(rank, devices, store))
                others[-1].start()
            for other in others:
                other.tell(copied)
            for other in others:
                other.hear()
            _join(0, devices, store)
            if devices[0].type == "cuda":
                for other in others:
                    Thread(target=_abort_after, args=(other.process.pid,), daemon=True).start()
            try:
                yield Ranks(0, len(devices))
            except BaseException as error:
                # Before the group goes, which would end the others for that reason.
                reason = _reason(others) if not isinstance(error, InputError) and isinstance(error, Exception) else None
                for other in others:
                    other.end()
                _abort()
                if reason is not None:
                    raise reason from error
                raise
            finally:
                dist.destroy_process_group()
            for other in others:
                other.hear()
        finally:
            for other in others:
                other.end()


class _Other:
    """Another rank, as the caller sees it."""

    def __init__(self, rank: int, devices: Sequence[torch.device], store: Path) -> None:
        self.name = f"process {rank + 1} of {len(devices)} of the training"
        spawn = multiprocessing.get_context("spawn")
        self.pipe, self._end = spawn.Pipe()
        arguments = (self._end, rank, tuple(devices), store, torch.get_num_threads())
        self.process = spawn.Process(target=_serve, args=arguments, daemon=True)

    def start(self) -> None:
        # Python starts it with the first process, and then unblocks what is blocked below.
        resource_tracker.ensure_running()
        # What is blocked here stays blocked there, from the first moment on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._end.close()

    def tell(self, message: bytes) -> None:
        # Why it does not listen is heard next.
        with suppress(OSError):
            self.pipe.send_bytes(message)

    def hear(self) -> None:
        """Wait until it is ready, or has finished; raises what ended it before."""
        try:
            error: Exception | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            killed = f"was killed ({signal.Signals(-code).name}), perhaps for want of memory" if code < 0 else ""
            how = killed or f"ended with status {code}"
            error = InputError(f"{self.name} {how}; run again: what is done is in the store")
        if error is not None:
            raise error

    def end(self) -> None:
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _reason(others: Sequence[_Other]) -> Exception | None:
    """Why another rank has ended, if one has; of several, one that did not just follow the first."""
    reasons: list[Exception] = []
    heard = wait([other.pipe for other in others], GRACE)
    for other in others:
        if other.pipe in heard:
            try:
                other.hear()
            except Exception as reason:
                reasons.append(reason)
    return min(reasons, key=lambda reason: not isinstance(reason, InputError), default=None)


def _serve(pipe: "Connection[Any, Any]", rank: int, devices: Sequence[torch.device], store: Path, threads: int) -> None:
    """A further rank: what the caller sends is run, and how it ended is told."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    # What Lightning says of a fit, the caller's says.
    logging.disable(logging.INFO)
    try:
        work = pipe.recv()
        pipe.send(None)
        _join(rank, devices, store)
        try:
            work(ranks=Ranks(rank, len(devices)))
        except BaseException:
            _abort()
            raise
        finally:
            dist.destroy_process_group()
        pipe.send(None)
    except Exception as error:
        where = f"in process {rank + 1} of {len(devices)} of the training"
        pipe.send(error if isinstance(error, InputError) else RuntimeError(f"{where}:\n{traceback.format_exc()}"))
        sys.exit(1)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _join(rank: int, devices: Sequence[torch.device], store: Path) -> None:
    """Enter the group, which meets by a file and is torch's default one."""
    device = devices[rank]
    given: dict[str, Any] = {"backend": "gloo"}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        given = {"backend": "nccl", "device_id": device}
        # Otherwise a thread of NCCL's ends the process where a communicator is aborted.
        os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    dist.init_process_group(init_method=f"file://{store}", rank=rank, world_size=len(devices), **given)


def _abort() -> None:
    """Let nothing wait on a GPU for a rank that has ended. On processors closed connections see to that."""
    if dist.is_initialized() and dist.get_backend() == "nccl" and dist.group.WORLD is not None:
        dist.group.WORLD.abort()


def _abort_after(process: int) -> None:
    """Abort when the process fails, which what waits on a GPU would not notice; its status stays to be read."""
    with suppress(ChildProcessError):
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_status:
            _abort()


def batch_norms(net: nn.Module) -> list[tuple[nn.Module, str, _BatchNorm]]:
    """The layers whose output for an image depends, in training, on its batch: parent, name in it, and layer."""
    return [
        (parent, name, child)
        for parent in net.modules()
        for name, child in parent.named_children()
        if isinstance(child, _BatchNorm)
    ]


@contextmanager
def synchronised(net: nn.Module, ranks: Ranks) -> Iterator[None]:
    """While the block runs, batch-norm layers take the statistics of a whole batch, whatever rank has its rows.

    Weights, buffers and their names stay, and afterwards the layers are the network's own again. PyTorch can do it on
    GPUs only.
    """
    layers = batch_norms(net) if ranks.count > 1 else []
    for parent, name, layer in layers:
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(layer))
    try:
        yield
    finally:
        for parent, name, layer in layers:
            setattr(parent, name, layer)
