"""Tokens and keys in text: what they look like, and what only looks like them.

Every kind has an anchor, a short text without which it cannot be there, so that most of a large file is passed over at
the speed of a substring search. A leak costs more than a false alarm: a token with a wrong checksum still counts, and a
checksum that is right counts whatever the token looks like.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import unquote

SHOWN = 4
"""Characters of a secret that a message may show."""

OVERLAP = 8 << 10
"""Characters within which a secret must show itself, for texts that are read in windows."""


@dataclass(frozen=True)
class Secret:
    """Something that must not be published; ``start`` is its place in the text."""

    kind: str
    start: int
    hint: str


@dataclass(frozen=True)
class Kind:
    """How one kind of secret looks. Group ``value`` of the pattern, if there is one, is the secret itself."""

    name: str
    anchors: tuple[str, ...]
    pattern: re.Pattern[str]
    real: Callable[[str], bool]
    bounded: bool = True
    """No letter, digit or ``_`` may touch it on either side."""
    folded: bool = False
    """The anchors are found whatever the case."""


_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PLACEHOLDER = re.compile(
    r"example|placeholder|x{4}|\*{3}|\.{3}|<|>|\{\{|\$\{|\$\(|%\(|your[-_]|changeme|change[-_]me|redacted|dummy|insert",
    re.I,
)
_MADE_UP = frozenset(
    {
        *("a", "my", "the", "some", "user", "username", "pass", "pw", "pwd", "passwd", "password", "secret", "token"),
        *("key", "api", "apikey", "test", "foo", "bar", "none", "null", "x", "xx", "xxx", "p", "s", "t", "u"),
    }
)
"""Words that passwords in examples are made of."""

_PUBLIC = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq",  # the account key of Azure's own emulator
    "eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lI",  # the payload that jwt.io shows everybody
)
_ESCAPE = re.compile(r"(?:\\[nrtbf]|\\u[0-9a-fA-F]{4}|%[0-9a-fA-F]{2})$")


def _random(value: str, least: float = 3.0) -> bool:
    """Whether ``value`` was drawn rather than written: enough entropy (bits a character), no row, no placeholder."""
    if _PLACEHOLDER.search(value) or any(public in value for public in _PUBLIC):
        return False
    count = len(value)
    entropy = -sum(n / count * math.log2(n / count) for n in Counter(value).values())
    in_row = sum(0 <= ord(after) - ord(before) <= 1 for before, after in pairwise(value))
    return entropy >= least and in_row < 0.4 * count


def _mixed(value: str) -> bool:
    """Random, and not words run together: those have few capitals and no digits."""
    letters = value.partition("_")[2] or value
    written = not any(char.isdigit() for char in letters) and sum(char.isupper() for char in letters) < 0.2 * len(
        letters
    )
    return _random(letters) and not written


def _with_digit(value: str) -> bool:
    return _random(value) and any(char.isdigit() for char in value)


def _checksummed(value: str) -> bool:
    """The form of GitHub and npm: the last six characters are the base-62 CRC-32 of those before them."""
    body, check = value.partition("_")[2][:-6], value[-6:]
    number, digits = zlib.crc32(body.encode()), ""
    while number:
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits.rjust(6, "0") == check or _with_digit(value)


def _jwt(value: str) -> bool:
    """The first part decodes to a JSON object that names an algorithm."""
    head = value[value.index("eyJ") :].split(".")[0]
    try:
        data = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(data, dict) and "alg" in data and not any(public in value for public in _PUBLIC)


def _password(value: str) -> bool:
    """More than a placeholder, and made of more than the words of examples."""
    words = [word for word in re.split(r"[^A-Za-z]+", unquote(value).lower()) if word]
    variable = value[0] in "$%{[(" or value[-1] in "}])"
    return not (variable or _PLACEHOLDER.search(value) or _MADE_UP.issuperset(words))


def _body(value: str) -> bool:
    return not _PLACEHOLDER.search(value) and len(set(value)) > 12


def _kind(name: str, anchors: str, pattern: str, real: Callable[[str], bool] = _with_digit, **flags: bool) -> Kind:
    folded = flags.get("folded", False)
    return Kind(name, tuple(anchors.split()), re.compile(pattern, re.ASCII | (re.I if folded else 0)), real, **flags)


_IS = r"[\"'\\]{0,3}\s{0,4}(?:=>?|:|,)\s{0,4}[\"'\\]{0,3}"
"""What stands between a name and its value, whatever the language."""

_IN_URL = r"[A-Za-z0-9!#$%&()*+,;=?^_{|}~.\[\]-]"
"""What a user name or a password in a URL is made of."""

KINDS: tuple[Kind, ...] = (
    _kind("Hugging Face token", "hf_", r"hf_[A-Za-z0-9]{30,100}", _mixed),
    _kind("Hugging Face token", "hf_oauth_ hf_jwt_", r"hf_(?:oauth|jwt)_[\w.-]{20,4000}"),
    _kind("Hugging Face organization token", "api_org_", r"api_org_[A-Za-z0-9]{30,100}", _mixed),
    _kind("GitHub token", "ghp_ gho_ ghs_ ghu_ ghr_", r"gh[posur]_[A-Za-z0-9]{36,255}", _checksummed),
    _kind("GitHub token", "ghs_", r"ghs_\w*eyJ[\w-]{10,2000}\.[\w-]{10,2000}\.[\w-]{10,2000}", _random),
    _kind("GitHub token", "github_pat_", r"github_pat_\w{40,255}"),
    _kind("GitLab token", "glpat- gldt- glrt- glcbt- glptt- glft- gloas-", r"gl[a-z]{2,4}-[\w.-]{20,300}"),
    _kind("AWS access key id", "AKIA ASIA ABIA", r"A(?:KIA|SIA|BIA)[A-Z2-7]{16}", _random),
    _kind(
        "AWS secret key",
        "aws secret_access_key secretaccesskey",
        rf"(?:aws.{{0,30}}(?:secret|sk|key)|secret_?access_?key)[\w.-]{{0,20}}{_IS}"
        r"(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        lambda value: _random(value, 4.0),
        bounded=False,
        folded=True,
    ),
    _kind("Google API key", "AIza", r"AIza[\w-]{35}"),
    _kind("Google OAuth token", "ya29.", r"ya29\.[\w-]{30,1000}"),
    _kind("Google OAuth client secret", "GOCSPX-", r"GOCSPX-[\w-]{28}", _random),
    _kind(
        "service account key",
        "private_key_id",
        r"\"private_key_id\\?\"\s{0,8}:\s{0,8}\\?\"(?P<value>[0-9a-f]{40})\\?\"",
        bounded=False,
    ),
    _kind("OpenAI key", "sk-proj- sk-svcacct- sk-admin-", r"sk-(?:proj|svcacct|admin)-[\w-]{20,300}"),
    _kind("Anthropic key", "sk-ant-", r"sk-ant-[\w-]{20,300}"),
    _kind("OpenRouter key", "sk-or-", r"sk-or-v1-[0-9a-f]{40,100}"),
    _kind("OpenAI key", "sk-", r"sk-[A-Za-z0-9]{32,100}"),
    _kind("Slack token", "xox", r"xox[abeoprs](?:\.xox[bp])?-(?:\d-)?[A-Za-z0-9-]{16,300}"),
    _kind("Slack app token", "xapp-", r"xapp-\d-[A-Za-z0-9-]{30,200}"),
    _kind("Slack webhook", "hooks.slack.com", r"hooks\.slack\.com/[a-z]{1,20}/(?P<value>[A-Za-z0-9/]{30,100})"),
    _kind("Stripe key", "sk_live_ rk_live_ sk_test_ rk_test_", r"[sr]k_(?:live|test)_[A-Za-z0-9]{20,250}"),
    _kind("npm token", "npm_", r"npm_[A-Za-z0-9]{36}", _checksummed),
    _kind("PyPI token", "pypi-AgE", r"pypi-AgE[\w-]{50,1000}", _random),
    _kind(
        "Azure key",
        "AccountKey= SharedAccessKey=",
        r"(?:AccountKey|SharedAccessKey)=(?P<value>[A-Za-z0-9+/]{42,86}={1,2})",
        _random,
        bounded=False,
    ),
    _kind(
        "Azure shared access signature",
        "sig=",
        r"[?&;]sig=(?P<value>[A-Za-z0-9%+/]{40,200}(?:%3[Dd]|=))",
        _random,
        bounded=False,
    ),
    _kind(
        "JSON web token",
        "eyJ",
        r"(?:(?<![\w-])|(?<=\\[nrt]))eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{16,2000}",
        _jwt,
        bounded=False,
    ),
    _kind("SendGrid key", "SG.", r"SG\.[\w-]{22}\.[\w-]{43}"),
    _kind("DigitalOcean token", "dop_v1_ doo_v1_", r"do[op]_v1_[0-9a-f]{64}"),
    _kind("Docker token", "dckr_pat_ dckr_oat_", r"dckr_[po]at_[\w-]{27,100}"),
    _kind("Replicate token", "r8_", r"r8_[A-Za-z0-9]{37}"),
    _kind("Groq key", "gsk_", r"gsk_[A-Za-z0-9]{50,60}"),
    _kind("Databricks token", "dapi", r"dapi[0-9a-f]{32}(?:-\d)?"),
    _kind(
        "Weights & Biases key",
        "wandb",
        rf"wandb[_ -]?api[_ -]?key{_IS}(?P<value>[0-9a-f]{{40}})",
        bounded=False,
        folded=True,
    ),
    _kind("Telegram bot token", ":AA", r"\d{8,10}:AA[\w-]{33}", _random),
    _kind(
        "private key",
        "-----BEGIN",
        r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:(?:\\[rn]|[\s\"'>|,+#])|(?:Proc-Type|DEK-Info|Version|Comment):[^\n\\]{0,100}\\?\n){0,400}?"
        r"(?P<value>[A-Za-z0-9+/]{24,64})",
        _body,
        bounded=False,
    ),
    _kind("private key", "PuTTY-User-Key-File", r"PuTTY-User-Key-File-\d", lambda value: True, bounded=False),
    _kind(
        "password in a URL",
        "://",
        rf"[A-Za-z][A-Za-z0-9+.-]{{1,20}}://{_IN_URL}{{0,200}}:(?P<value>(?:{_IN_URL}|:){{3,300}})@[A-Za-z0-9\[]",
        _password,
        bounded=False,
    ),
    _kind(
        "authorization header",
        "authorization",
        rf"authorization{_IS}(?:bearer|token|basic)\s{{1,4}}(?P<value>[A-Za-z0-9._~+/=-]{{16,4000}})",
        _with_digit,
        bounded=False,
        folded=True,
    ),
    _kind(
        "bearer token",
        "Bearer",
        r"Bearer\s{1,4}(?P<value>[A-Za-z0-9._~+/=-]{20,4000})",
        lambda value: _with_digit(value) and _random(value, 3.5),
        bounded=False,
    ),
    _kind(
        "netrc password",
        "machine",
        r"\bmachine\s{1,20}\S{1,200}\s{1,20}login\s{1,20}\S{1,200}\s{1,20}password\s{1,20}(?P<value>\S{3,300})",
        _password,
        bounded=False,
    ),
    _kind(
        "key",
        "api_key apikey secret_key secretkey access_token auth_token client_secret api-key",
        r"(?:api[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret)[\"'\\]{0,3}\s{0,4}[=:]\s{0,4}"
        r"[\"']\\{0,2}(?P<value>[A-Za-z0-9+/_=-]{24,200})\\{0,2}[\"']",
        lambda value: _with_digit(value) and _random(value, 3.7),
        bounded=False,
        folded=True,
    ),
)
"""Telling kinds first: a place is reported once, under the first that fits."""


def find(text: str, *, glued: bool = False) -> Iterator[Secret]:
    """Every secret in ``text``, in the order of `KINDS`; the longest match of a place counts once.

    Args:
        text: what is looked at; only ASCII matters, so bytes of unknown encoding may be read as Latin-1.
        glued: the text was taken out of a binary format, where a length or a tag may touch a string on either side.
    """
    lower: str | None = None
    taken: list[tuple[int, int]] = []
    for kind in KINDS:
        if kind.folded:
            lower = text.lower() if lower is None else lower
        where = lower if kind.folded and lower is not None else text
        if not any(anchor in where for anchor in kind.anchors):
            continue
        for match in kind.pattern.finditer(text):
            group = "value" if "value" in kind.pattern.groupindex else 0
            start, end = match.span(group)
            if kind.bounded and not _stands_alone(text, start, end, glued):
                continue
            if any(start < other_end and other < end for other, other_end in taken) or not kind.real(match[group]):
                continue
            taken.append((start, end))
            yield Secret(kind.name, match.start(), match[group][:SHOWN])


def _stands_alone(text: str, start: int, end: int, glued: bool) -> bool:
    """Whether the match is a word of its own; an escape for a line end or another character may stand before it."""
    before = text[max(0, start - 6) : start]
    if glued:
        return sum(1 for _ in _word_before(before)) <= 3
    free = not before or not _is_word(before[-1]) or bool(_ESCAPE.search(before))
    return free and (end == len(text) or not _is_word(text[end]))


def _word_before(before: str) -> Iterator[str]:
    for char in reversed(before):
        if not _is_word(char):
            return
        yield char


def _is_word(char: str) -> bool:
    return char == "_" or (char.isascii() and char.isalnum())
