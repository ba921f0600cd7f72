"""The merge under encryption: the server weighs its experts by a user's priors without seeing them.

[Cheon2017] J. H. Cheon, A. Kim, M. Kim, Y. Song. Homomorphic encryption for arithmetic of approximate numbers.
ASIACRYPT 2017.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel

RING = 8192
"""The degree of the polynomials; half of it are the numbers of one ciphertext."""
MODULI = (60, 40, 60)
"""Bits of the moduli: one product. Their sum may be 218 at this degree for 128 bits of security."""
SCALE = 2.0**40
"""Numbers are multiples of its inverse."""


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
    with plain numbers in CKKS [Cheon2017], which is approximate: merged weights are right to about 1e-6.

    The server learns the names and shapes of the weights, which are its own, and the number of experts. The device
    learns the merged weights alone. The server has to follow the protocol: one that answers with other products, and
    is told what comes of them, learns more.

    Raises:
        InputError: TenSEAL is not installed.
    """

    def __init__(self) -> None:
        ts = _tenseal()
        self._context = ts.context(ts.SCHEME_TYPE.CKKS, RING, coeff_mod_bit_sizes=list(MODULI))
        self._context.global_scale = SCALE

    def encrypt(self, priors: Sequence[Prior]) -> Shares:
        """Encrypt the share of each expert in each merged weight.

        Args:
            priors: The prior of each expert: a number for each weight of the shared body. Where all of them are 0, each
                expert has the same share.

        Returns:
            The message.
        """
        omegas = torch.stack([_flat(prior) for prior in priors])
        shares = (omegas / omegas.sum(0)).nan_to_num_(1 / len(priors))
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
        InputError: The message is for another number of experts or of weights, or TenSEAL is not installed.
    """
    ts = _tenseal()
    context = ts.context_from(shares.context)
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


def _flat(prior: Prior) -> Tensor:
    return torch.cat([omega.detach().flatten() for omega in prior.values()]).double().cpu()


def _tenseal() -> Any:
    if importlib.util.find_spec("tenseal") is None:
        raise InputError("a merge under encryption needs tenseal; pip install 'dua_lightning[privacy]'")
    import tenseal

    return tenseal
