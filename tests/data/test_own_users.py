"""Users as the pictures come."""

import pytest

from dua_lightning.data.own_users import own_users
from dua_lightning.errors import InputError
from tests.data.pools import pool


def test_every_user_has_exactly_their_own_pictures() -> None:
    given = pool(users=("ann", "bob"))
    found = own_users(1, given, input_size=8)
    assert [user.user for user in found.users] == ["ann", "bob"]
    for place, user in enumerate(found.users):
        owned = {source for images in user.images for source in images.sources.tolist()}
        assert owned == set((given.owners == place).nonzero()[:, 0].tolist())


def test_pictures_without_owners_are_refused() -> None:
    with pytest.raises(InputError, match="benchmark catprior"):
        own_users(1, pool(), input_size=8)
