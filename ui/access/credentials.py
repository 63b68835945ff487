"""What a client must know to be let in."""

import base64
import hmac
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from gen.errors import InputError

AUTH, KEY = "SALON_AUTH", "SALON_API_KEY"  # in the environment: a command line can be read by all
SHORTEST = 8  # characters of a secret


@dataclass(frozen=True)
class Credentials:
    """A key (sent as `Bearer`), or a user and password (sent as `Basic`); "" for none."""

    key: str = ""
    user: str = ""
    password: str = ""

    def __bool__(self) -> bool:
        return bool(self.key or self.password)

    def accept(self, authorization: str) -> bool:
        """Return whether the header of a request proves that its sender knows them."""
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return bool(self.key) and _same(value.strip(), self.key)
        if scheme.lower() != "basic":
            return False
        try:
            sent = base64.b64decode(value, validate=True).decode()
        except ValueError:
            return False
        # A browser has no other way to send the key than as a password.
        by_key = bool(self.key) and _same(sent.partition(":")[2], self.key)
        return by_key or (bool(self.password) and _same(sent, f"{self.user}:{self.password}"))


def read_credentials(host: str, environment: Mapping[str, str] = os.environ) -> Credentials:
    """Return what the environment asks of clients.

    Raises InputError for secrets that are none, and if there are none for an address that other
    machines can reach.
    """
    key = _secret(KEY, environment.get(KEY, ""))
    auth = environment.get(AUTH, "")
    user, _, password = auth.partition(":")
    if auth and not (user and password):
        raise InputError(f"{AUTH}: must be USER:PASSWORD")
    password = _secret(f"the password in {AUTH}", password)
    if not key and not password and not is_loopback(host):
        raise InputError(
            f"--host {host}: what other machines can reach needs a password: set {AUTH} to "
            f"USER:PASSWORD or {KEY} to a key, or use 127.0.0.1 and, from elsewhere, ssh -L"
        )
    return Credentials(key, user, password)


def is_loopback(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _secret(name: str, value: str) -> str:
    if value and len(value) < SHORTEST:
        raise InputError(f"{name}: too short, at least {SHORTEST} characters are needed")
    return value


def _same(sent: str, known: str) -> bool:
    return hmac.compare_digest(sent.encode(), known.encode())
