"""The merge under encryption: the server weighs its experts by a user's priors without seeing them.

[Cheon2017] J. H. Cheon, A. Kim, M. Kim, Y. Song. Homomorphic encryption for arithmetic of approximate numbers.
ASIACRYPT 2017.
"""

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.merge.base import check_head, check_norms
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel

RING = 8192
"""The degree of the polynomials; half of it are the numbers of one ciphertext."""
MODULI = (60, 40, 60)
"""Bits of the moduli: one product. Their sum may be 218 at this degree for 128 bits of security."""
SCALE = 2.0**40
"""Numbers are multiples of its inverse."""
ERROR = 1e-6
"""The largest error of a merged weight, as a share of the largest weight of an expert, and at least that of 1."""


@dataclass(frozen=True)
class Shares:
    """The message of a device: for each expert its share in each merged weight, encrypted.

    Args:
        context: The parameters of the encryption, without the secret key.
        chunks: Ciphertexts of up to `RING / 2` shares, for each expert those of all weights in the order of the priors.
    """

    context: bytes
    chunks: tuple[tuple[bytes, ...], ...]

    @property
    def size(self) -> int:
        """Bytes up."""
        return len(self.context) + sum(len(one) for of_expert in self.chunks for one in of_expert)


class Device:
    """The user's side of a merge under encryption: it holds the secret key, and never sends it.

    The device divides before it encrypts. It knows its priors, so that the share Omega_t / sum Omega of each expert is
    known to it, and eq. (1) is left as a sum of products with the server's weights. These are products of a ciphertext
    with plain numbers in CKKS [Cheon2017], which is approximate: merged weights are right to `ERROR`.

    The server learns the names and shapes of the weights, which are its own, and the number of experts. The device
    learns the merged weights alone. The server has to follow the protocol: one that answers with other products, and
    is told what comes of them, learns more.

    Args:
        zero_importance: The value of a weight that no expert finds important, as in `merge.Mode`.

    Raises:
        InputError: TenSEAL is not installed.
    """

    def __init__(self, zero_importance: Literal["mean", "zero"] = "mean") -> None:
        self._nobodys = zero_importance
        ts = _tenseal()
        self._context = ts.context(ts.SCHEME_TYPE.CKKS, RING, coeff_mod_bit_sizes=list(MODULI))
        self._context.global_scale = SCALE

    def encrypt(self, priors: Sequence[Prior]) -> Shares:
        """Encrypt the share of each expert in each merged weight.

        Args:
            priors: The prior of each expert: a number for each weight of the shared body. Where all of them are 0, each
                expert has the same share, or none with `zero_importance="zero"`.

        Returns:
            The message.

        Raises:
            InputError: A prior has something else than non-negative numbers.
        """
        omegas = torch.stack([_flat(prior) for prior in priors])
        if not (omegas.isfinite() & (omegas >= 0)).all():
            raise InputError(
                "a prior has numbers that are negative, infinite or NaN, and cannot be encrypted as shares; measure it "
                "with importance=mas or importance=fim"
            )
        shares = (omegas / omegas.sum(0)).nan_to_num_(0 if self._nobodys == "zero" else 1 / len(priors))
        ts = _tenseal()
        return Shares(
            # The server needs the public key where a product is with nothing but 0, which it encrypts anew.
            self._context.serialize(save_secret_key=False, save_galois_keys=False, save_relin_keys=False),
            tuple(
                tuple(ts.ckks_vector(self._context, chunk.tolist()).serialize() for chunk in share.split(RING // 2))
                for share in shares
            ),
        )

    def decrypt(self, answer: Sequence[bytes], priors: Sequence[Prior], experts: Sequence[Expert]) -> UserModel:
        """Make the personal model of the server's answer.

        Args:
            answer: What `merge_encrypted` gives.
            priors: The priors that were encrypted.
            experts: The experts; only what they do not share (the head and the buffers) is read, besides the types of
                their weights.

        Returns:
            A state for each task, as `merge.Mode` gives it.
        """
        ts = _tenseal()
        numbers = [one for part in answer for one in ts.ckks_vector_from(self._context, part).decrypt()]
        flat = torch.tensor(numbers, dtype=torch.float64)
        pieces = flat.split([omega.numel() for omega in priors[0].values()])
        merged: State = {}
        for (name, omega), piece in zip(priors[0].items(), pieces, strict=True):
            merged[name] = piece.view(omega.shape).to(experts[0].state[name])
        return {expert.task.name: expert.state | merged for expert in experts}


def merge_encrypted(experts: Sequence[Expert], names: Sequence[str], shares: Shares) -> tuple[bytes, ...]:
    """Merge experts by encrypted shares, on the server.

    Args:
        experts: The experts.
        names: The names of the weights of the shared body, in the order of the priors.
        shares: The device's message.

    Returns:
        Ciphertexts of the merged weights.

    Raises:
        InputError: The message is for another number of experts or of weights, an expert is not finite, or TenSEAL is
            not installed.
    """
    ts = _tenseal()
    context = ts.context_from(shares.context)
    for expert in experts:
        if bad := [name for name in names if not expert.state[name].isfinite().all()]:
            raise InputError(
                f"the expert of task {expert.task.name} is not finite at {bad[0]}; train with a lower learning rate"
            )
    thetas = [_flat({name: expert.state[name] for name in names}).split(RING // 2) for expert in experts]
    if len(shares.chunks) != len(experts) or any(len(of) != len(thetas[0]) for of in shares.chunks):
        raise InputError(
            f"encrypted shares of {len(shares.chunks)} experts do not fit {len(experts)} experts with "
            f"{sum(map(len, thetas[0]))} weights; measure the priors on these experts"
        )
    answer = []
    for place in range(len(thetas[0])):
        products = [
            ts.ckks_vector_from(context, of[place]) * theta[place].tolist()
            for of, theta in zip(shares.chunks, thetas, strict=True)
        ]
        answer.append(sum(products[1:], start=products[0]).serialize())
    return tuple(answer)


@dataclass(frozen=True)
class Exchange:
    """The cost of a merge under encryption for one user.

    Args:
        up: The bytes that the device sends.
        down: The bytes that it is answered.
        device_seconds: The seconds of encrypting and decrypting.
        server_seconds: The seconds of weighing.
    """

    up: int
    down: int
    device_seconds: float
    server_seconds: float


@dataclass(frozen=True)
class Encrypted:
    """The merge of eq. (1), both sides of the encryption in one process: `merge.Mode`, right to `ERROR`.

    Args:
        zero_importance: The value of a weight that no expert finds important, as in `merge.Mode`.
    """

    zero_importance: Literal["mean", "zero"] = "mean"
    needs_prior: ClassVar[bool] = True
    keeps_statistics: ClassVar[bool] = False

    def check(self) -> None:
        """Check that the merge can be made here, before anything is measured for it.

        Raises:
            InputError: TenSEAL is not installed.
        """
        _tenseal()

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        return self.exchange(experts, priors)[0]

    def exchange(self, experts: Sequence[Expert], priors: Sequence[Prior]) -> tuple[UserModel, Exchange]:
        """Merge the experts into one personal model, and tell what that costs.

        Args:
            experts: The experts in the order in which they were learnt.
            priors: One prior for each expert: a number for each entry of each weight of the shared body.

        Returns:
            A state for each task, and the cost. The device has a new key for each call.

        Raises:
            InputError: The priors or the experts cannot be merged so, or TenSEAL is not installed.
        """
        check_head([expert.task for expert in experts], experts[0].state, priors[0])
        check_norms(experts[0].state)
        times = [time.perf_counter()]
        device = Device(self.zero_importance)
        message = device.encrypt(priors)
        times.append(time.perf_counter())
        answer = merge_encrypted(experts, list(priors[0]), message)
        times.append(time.perf_counter())
        model = device.decrypt(answer, priors, experts)
        times.append(time.perf_counter())
        began, sent, answered, ended = times
        seconds = sent - began + ended - answered, answered - sent
        return model, Exchange(message.size, sum(map(len, answer)), *seconds)


def _flat(prior: Prior) -> Tensor:
    return torch.cat([omega.detach().flatten() for omega in prior.values()]).double().cpu()


def _tenseal() -> Any:
    if importlib.util.find_spec("tenseal") is None:
        raise InputError("a merge under encryption needs tenseal; pip install 'dua_lightning[privacy]'")
    import tenseal

    return tenseal
