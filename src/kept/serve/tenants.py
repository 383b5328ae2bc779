"""Whose a request is, by the key that came with it."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kept.errors import OptionError
from kept.paths import read_path
from kept.serve.settings import Settings

_KNOWN_TO_OTHERS = re.compile(r"known under another salt from token (\d+) on.*", re.DOTALL)
_SALT, _NAME = b"kept salt", b"kept tenant"
OTHERS, SHARED = "others", "shared"  # what is called so in views is nobody's name
SHORTEST_KEY = 8  # characters; what is shorter is guessed
_KEY = re.compile(rf"(?:(?P<name>[\w.-]{{1,64}}):)?(?P<key>[!-~]{{{SHORTEST_KEY},4096}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tenant:
    """name: in logs and metrics. salt: requests of different salts share no keys and values."""

    name: str = ""
    salt: str = ""


NOBODY = Tenant()  # of a server without keys


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys a server takes, and whose each is; none: it takes any request.

    Keys themselves are held as digests under a secret, and compared in constant time.
    """

    _tenants: Mapping[bytes, Tenant] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Iterable[str], secret: str = "") -> Keys:
        """Keys of texts "KEY" or "NAME:KEY". secret: makes salts that no key alone tells.

        Several keys of one name are one tenant. Raises OptionError for a text that is neither, and
        for a name that means something else where it is shown.
        """
        found: dict[bytes, Tenant] = {}
        names: dict[str, str] = {}
        for text in given:
            match = _KEY.fullmatch(text)
            if match is None:
                raise OptionError(
                    "an API key is KEY or NAME:KEY, the key of at least "
                    f"{SHORTEST_KEY} printable ASCII characters without spaces; "
                    "`openssl rand -hex 32` makes one"
                )
            key = match["key"]
            salt = _digest(secret, key, _SALT)
            if match["name"] in (OTHERS, SHARED):
                raise OptionError(
                    f"an API key is of {match['name']!r}, which the page and /kept/cache call what "
                    "is of several tenants or of others; give that tenant another name"
                )
            called = match["name"] or _digest(secret, key, _NAME)[:8]
            found[hashlib.sha256(key.encode()).digest()] = Tenant(
                called, names.setdefault(called, salt)
            )
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self._tenants)

    @property
    def has_several(self) -> bool:
        """Whether more than one tenant asks, so that none may see what is another's."""
        return len(set(self._tenants.values())) > 1

    def tenant_of(self, key: bytes | None) -> Tenant | None:
        """Whose a key is; None: nobody's, so that it must be refused."""
        if not self._tenants:
            return NOBODY
        if key is None:
            return None
        digest, found = hashlib.sha256(key).digest(), None
        for known, tenant in self._tenants.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                found = tenant
        return found


def own_reason(reason: str | None) -> str | None:
    """Why no more of a prompt was found, as its tenant may know it: that another one has sent the
    same tokens is told as if nobody had."""
    found = _KNOWN_TO_OTHERS.fullmatch(reason or "")
    if found is None:
        return reason
    count = int(found[1])
    return f"known up to token {count}" if count else "nothing known begins like it"


def read_keys(path: str) -> list[str]:
    """The keys of a file, one a line, `#` before remarks. Raises OptionError for a file that
    cannot be read or holds none."""
    file = read_path(path, "the file of API keys").expanduser()
    try:
        lines = Path(file).read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the file of API keys {path} cannot be read: {error}") from error
    found = [text for line in lines if (text := line.strip()) and not text.startswith("#")]
    if not found:
        raise OptionError(f"the file of API keys {path} holds none; write one a line")
    return found


def keys_of(settings: Settings) -> Keys:
    """The keys that a server's settings name. Raises OptionError for what is none."""
    given = list(settings.api_key)
    if settings.api_key_file is not None:
        given += read_keys(settings.api_key_file)
    return Keys.of(given, settings.salt_secret or "")


def _digest(secret: str, key: str, purpose: bytes) -> str:
    return hmac.new(secret.encode() + b"\0" + key.encode(), purpose, hashlib.sha256).hexdigest()
