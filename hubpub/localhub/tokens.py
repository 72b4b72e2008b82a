"""Who may do what: access tokens as the Hub gives them out."""

from __future__ import annotations

import secrets
import string
import time
from dataclasses import dataclass
from typing import Literal

from hubpub.localhub.database import Database

Role = Literal["read", "write"]
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Token:
    """What a token stands for; ``repo`` is set for those of trusted publishing, which serve one repo only."""

    user: str
    role: Role
    repo: int | None


class Tokens:
    """The tokens of a Hub."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make(self, role: Role, user: str) -> str:
        """A new token: of the Hub's shape, but its first letters say where it comes from."""
        token = "hf_" + f"LocalHub{role.capitalize()}".ljust(34, "\0")
        token = "".join(secrets.choice(_LETTERS) if letter == "\0" else letter for letter in token)
        self._database.run("INSERT INTO tokens VALUES(?, ?, ?, NULL, NULL)", token, user, role)
        return token

    def make_for_repo(self, repo: int, user: str, seconds: int) -> str:
        """A token that may write to one repo for so many seconds."""
        token = f"hf_jwt_LocalHub{secrets.token_urlsafe(24)}"
        self._database.run("INSERT INTO tokens VALUES(?, ?, 'write', ?, ?)", token, user, repo, time.time() + seconds)
        return token

    def same(self, role: Role, user: str) -> str:
        """The token of that role that the user already has, else a new one."""
        found = self._database.row(
            "SELECT token FROM tokens WHERE role = ? AND user = ? AND repo IS NULL ORDER BY rowid", role, user
        )
        return str(found["token"]) if found else self.make(role, user)

    def revoke(self, token: str) -> None:
        """From now on the token is unknown."""
        self._database.run("DELETE FROM tokens WHERE token = ?", token)

    def find(self, token: str) -> Token | None:
        """What the token stands for, or None when it is unknown, revoked or has expired."""
        found = self._database.row("SELECT * FROM tokens WHERE token = ?", token)
        if found is None or (found["expires"] is not None and found["expires"] < time.time()):
            return None
        return Token(found["user"], found["role"], found["repo"])

    def is_user(self, name: str) -> bool:
        """Whether a user of that name has ever had a token that is still known."""
        return self._database.row("SELECT 1 FROM tokens WHERE user = ?", name) is not None
