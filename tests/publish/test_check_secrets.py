"""Tokens and keys: found in whatever a release holds, never shown, and not seen where there are none.

No secret stands in this file: they are put together when the tests run, so that no scanner takes it for a leak.
"""

# ruff: noqa: E501 (tables with a case in each line)
from __future__ import annotations

import json
import random
import string
import struct
import tempfile
import zlib
from base64 import urlsafe_b64encode
from pathlib import Path

import numpy as np
import onnx
import pytest
from check_tools import adopt, publishable, put, reasons, release
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.publish.scan import WINDOW, scan
from hubpub.publish.secrets import KINDS, OVERLAP, find

__all__ = ["publishable", "release"]

ROOT = Path(__file__).parents[2]
ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
BASE64 = ALNUM + "+/"


def drawn(alphabet: str, count: int, seed: object = 0) -> str:
    """Random characters, among them a digit where the alphabet has digits."""
    source = random.Random(f"{alphabet} {count} {seed}")
    return "".join(source.choice(alphabet) for _ in range(count - 1)) + ("7" if "7" in alphabet else alphabet[0])


def github(prefix: str, seed: object = 0) -> str:
    """With the checksum that GitHub puts at the end."""
    body = drawn(ALNUM, 30, seed)
    number, digits = zlib.crc32(body.encode()), ""
    while number:
        number, digit = divmod(number, 62)
        digits = (string.digits + string.ascii_uppercase + string.ascii_lowercase)[digit] + digits
    return f"{prefix}_{body}{digits.rjust(6, '0')}"


def jwt(head: dict[str, str], body: dict[str, str]) -> str:
    parts = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (head, body)]
    return ".".join([*parts, drawn(ALNUM, 43)])


def pem(kind: str = "RSA ", line_end: str = "\n") -> str:
    body = line_end.join(drawn(BASE64, 64, line) for line in range(8))
    return f"-----BEGIN {kind}PRIVATE KEY-----{line_end}{body}{line_end}-----END {kind}PRIVATE KEY-----"


SECRETS = {
    "hugging face": ("hf_" + drawn(string.ascii_letters, 34), "Hugging Face token"),
    "hugging face oauth": ("hf_oauth_" + drawn(ALNUM, 60), "Hugging Face token"),
    "hugging face organization": ("api_org_" + drawn(string.ascii_letters, 34), "Hugging Face organization token"),
    **{kind: (github(kind), "GitHub token") for kind in ("ghp", "gho", "ghu", "ghs", "ghr")},
    "github without checksum": ("ghp_" + drawn(ALNUM, 36), "GitHub token"),
    "github fine-grained": (f"github_pat_{drawn(ALNUM, 22)}_{drawn(ALNUM, 59)}", "GitHub token"),
    "gitlab": ("glpat-" + drawn(ALNUM, 20), "GitLab token"),
    "aws id": ("AKIA" + drawn(string.ascii_uppercase + "234567", 16), "AWS access key id"),
    "aws session id": ("ASIA" + drawn(string.ascii_uppercase + "234567", 16), "AWS access key id"),
    "aws secret": (f"aws_secret_access_key = {drawn(BASE64, 40)}", "AWS secret key"),
    "aws secret in JSON": (f'{{"SecretAccessKey": "{drawn(BASE64, 40)}"}}', "AWS secret key"),
    "google": ("AIza" + drawn(ALNUM + "-_", 35), "Google API key"),
    "service account": ('"type": "service_account", "private_key_id": "' + drawn(HEX, 40) + '"', "service account key"),
    "openai project": ("sk-proj-" + drawn(ALNUM + "-_", 80), "OpenAI key"),
    "openai": ("sk-" + drawn(ALNUM, 48), "OpenAI key"),
    "anthropic": ("sk-ant-api03-" + drawn(ALNUM + "-_", 95), "Anthropic key"),
    "slack": (f"xoxb-{drawn(string.digits, 12)}-{drawn(string.digits, 12)}-{drawn(ALNUM, 24)}", "Slack token"),
    "slack webhook": ("https://hooks.slack.com/services/" + "/".join(drawn(ALNUM, n) for n in (9, 11, 24)), "Slack webhook"),
    "stripe": ("sk_live_" + drawn(ALNUM, 24), "Stripe key"),
    "npm": (github("npm"), "npm token"),
    "pypi": ("pypi-AgEIcHlwaS5vcmc" + drawn(ALNUM + "-_", 140), "PyPI token"),
    "azure": (f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={drawn(BASE64, 86)}==;", "Azure key"),
    "jwt": (jwt({"alg": "HS256", "typ": "JWT"}, {"sub": "someone"}), "JSON web token"),
    "private key": (pem(), "private key"),
    "private key in JSON": (json.dumps({"private_key": pem("", "\n")}), "private key"),
    "openssh key": (pem("OPENSSH "), "private key"),
    "pgp key": ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n" + drawn(BASE64, 64), "private key"),
    "url": ("https://someone:" + drawn(ALNUM, 12) + "@host.example.org/simple", "password in a URL"),
    "bearer": ("Authorization: Bearer " + drawn(ALNUM, 40), "authorization header"),
    "bearer in JSON": (json.dumps({"Authorization": "Bearer " + drawn(ALNUM, 40)}), "authorization header"),
    "netrc": ("machine hub.example.org\n  login someone\n  password " + drawn(ALNUM, 12), "netrc password"),
    "some key": ('"api_key": "' + drawn(ALNUM, 32) + '"', "key"),
    "groq": ("gsk_" + drawn(ALNUM, 52), "Groq key"),
    "replicate": ("r8_" + drawn(ALNUM, 37), "Replicate token"),
    "weights and biases": ("WANDB_API_KEY=" + drawn(HEX, 40), "Weights & Biases key"),
}  # fmt: skip

HARMLESS = [
    "hf_" + "x" * 34,
    "hf_" + "a" * 34,
    "hf_" + string.ascii_letters[:34],
    "hf_...",
    "export HF_TOKEN=<token>",
    "hf_automatic_speech_recognition_pipeline_for_conditional_generation",
    "hf_AutomaticSpeechRecognitionPipelineForConditionalGeneration",
    "Authorization: Bearer $HF_TOKEN",
    "Authorization: Bearer {token}",
    "Authorization: Bearer hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "https://user:password@host.example.org",
    "https://user:${PASSWORD}@host.example.org",
    "https://user:pass@host",
    "https://a%20user:a%20secret@host.example.org",
    "http://[::1]:8080/a@b",
    "git+https://github.com/owner/repo@main",
    "https://host.example.org:8080/path?email=me@example.org",
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "sha256: 9d8066c605e9422405d42f082738619fb970c48c84248343559fa0da3c075951",
    'if line == "-----BEGIN PRIVATE KEY-----": raise ValueError("private key")',
    "-----BEGIN CERTIFICATE-----\n" + drawn(BASE64, 64) + "\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\n" + drawn(BASE64, 64),
    "task-" + drawn(ALNUM, 48),
    "risk-adjusted-return-of-the-whole-portfolio-of-the-customer",
    "sk-fading-circle-and-other-spinners-for-the-page",
    "The machine that I use has a login prompt and a password field",
    "password: str = Field(description='the password')",
    "api_key = os.environ['API_KEY']",
    '"api_key": "YOUR_API_KEY_GOES_IN_THIS_PLACE_HERE"',
    '"tokenizer_class": "WhisperTokenizerFastForConditionalGeneration"',
    "eyJhbGciOiJIUzI1NiJ9",
    "x" + github("ghp"),
    "pypi-package-with-a-long-name-that-means-nothing-at-all-to-anybody",
    "data:image/png;base64," + drawn(BASE64, 4000),
]


@pytest.mark.parametrize("name", SECRETS)
def test_each_kind_is_found_once_and_not_shown(release: Path, name: str) -> None:
    secret, kind = SECRETS[name]
    put(release, "sub/notes.md", f"# Notes\r\n\r\nläuft: {secret} \n".encode())
    (line,) = reasons(release)
    assert line.startswith(f"sub/notes.md:3: holds what looks like a secret: {kind} ("), line
    shown = line.split("(", 1)[1].split("…)")[0]
    assert len(shown) <= 4
    assert shown in secret
    assert line.endswith("; revoke it where it was issued, take it out, and build again")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_one(text: str) -> None:
    assert [secret.kind for secret in find(f"before {text}\nafter")] == []


def test_every_kind_has_a_case() -> None:
    covered = {kind for _, kind in SECRETS.values()}
    rare = {"Azure shared access signature", "Databricks token", "DigitalOcean token", "Docker token", "SendGrid key"}
    rare |= {"Google OAuth token", "Google OAuth client secret", "OpenRouter key", "Slack app token", "bearer token"}
    assert {kind.name for kind in KINDS} - covered - rare == {"Telegram bot token"}


RARE = {
    "Azure shared access signature": "https://a.blob.example.net/c?sv=1&sig=" + drawn(ALNUM, 43) + "%3D",
    "Databricks token": "dapi" + drawn(HEX, 32),
    "DigitalOcean token": "dop_v1_" + drawn(HEX, 64),
    "Docker token": "dckr_pat_" + drawn(ALNUM, 27),
    "SendGrid key": f"SG.{drawn(ALNUM, 22)}.{drawn(ALNUM, 43)}",
    "Google OAuth token": "ya29." + drawn(ALNUM, 60),
    "Google OAuth client secret": "GOCSPX-" + drawn(ALNUM, 28),
    "OpenRouter key": "sk-or-v1-" + drawn(HEX, 64),
    "Slack app token": "xapp-1-A" + drawn(ALNUM, 60),
    "bearer token": "curl -H Bearer " + drawn(ALNUM, 40),
    "Telegram bot token": drawn("123456789", 10) + ":AA" + drawn(ALNUM, 33),
}


@pytest.mark.parametrize("kind", RARE)
def test_rarer_kinds(kind: str) -> None:
    assert [secret.kind for secret in find(f"a {RARE[kind]} b")] == [kind]


@pytest.mark.parametrize("before", ["", " ", '"', "=", "/", "@", "token:", r"\n", r"\t", r"\u0022", "%3D", "(", ">"])
@pytest.mark.parametrize("after", ["", " ", '"', "\n", r"\n", "@host", ".", "<"])
def test_what_stands_beside_a_token(before: str, after: str) -> None:
    assert len(list(find(f"{before}{github('ghp')}{after}"))) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = f"première ligne\ndeuxième: {github('gho')}\n" + "et ainsi de suite\n" * 50
    (tmp_path / "notes").write_bytes(text.encode(encoding))
    (found,) = scan(tmp_path / "notes")
    assert (found.place, found.secret.kind) == (":2", "GitHub token")


@settings(max_examples=15, deadline=None)
@given(at=st.integers(-200, 200), edge=st.integers(0, 2), line=st.integers(1, 2000))
def test_the_edge_of_a_window_hides_nothing(
    tmp_path_factory: pytest.TempPathFactory, at: int, edge: int, line: int
) -> None:
    path = tmp_path_factory.mktemp("windows") / "long.jsonl"
    start = WINDOW + [0, -OVERLAP, OVERLAP][edge] + at
    filler = ("y" * line + "\n") * (start // (line + 1) + 1)
    before = filler[: start - 1] + "\n"
    path.write_text(f"{before}{github('ghp')}\n{filler}")
    (found,) = scan(path)
    assert found.place == f":{before.count(chr(10)) + 1}"


def test_a_large_text_is_read_in_windows(tmp_path: Path) -> None:
    """Several secrets, each with its line, in a file of many windows."""
    path = tmp_path / "large.txt"
    lines = [f"line {number} of a long text that says nothing" for number in range(150_000)]
    for number in (0, 30_000, 77_777, 149_999):
        lines[number] = github("ghu", number)
    path.write_text("\n".join(lines))
    assert path.stat().st_size > 5 * WINDOW
    assert [found.place for found in scan(path)] == [":1", ":30001", ":77778", ":150000"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_bytes_can_be_scanned(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "file.onnx"
    path.write_bytes(content)
    assert all(len(found.secret.hint) <= 4 for found in scan(path))


def test_hostile_texts_take_no_longer_than_others() -> None:
    """Patterns that go back and forth over a megabyte would not end within the test's time."""
    for piece in ("eyJ", "hf_", "sk-ant-", "://a:", "-----BEGIN PRIVATE KEY-----", "Version: ", "machine a login b ",
                  "authorization: bearer ", "aws secret", 'api_key="', "xoxb-", "github_pat_"):  # fmt: skip
        list(find(piece * (300_000 // len(piece))))
    list(find("-----BEGIN PRIVATE KEY-----" + "Version: Version: \n" * 10_000))


def model(release: Path) -> onnx.ModelProto:
    return onnx.load(release / "model.onnx")


def test_the_metadata_of_a_model(release: Path) -> None:
    changed = model(release)
    changed.metadata_props.add(key="trained_with", value=github("ghp"))
    onnx.save(changed, release / "model.onnx")
    adopt(release, "model.onnx")
    (line,) = reasons(release)
    assert line.startswith(
        "model.onnx: metadata_props[0] ('trained_with'): holds what looks like a secret: GitHub token"
    )


def test_a_named_key_in_the_metadata_of_a_model(release: Path) -> None:
    changed = model(release)
    changed.metadata_props.add(key="aws_secret_access_key", value=drawn(BASE64, 40))
    onnx.save(changed, release / "model.onnx")
    adopt(release, "model.onnx")
    (line,) = reasons(release)
    assert line.startswith(
        "model.onnx: metadata_props[0] ('aws_secret_access_key'): holds what looks like a secret: AWS"
    )


@pytest.mark.parametrize("where", ["doc", "node doc", "node name", "attribute", "producer", "unknown field"])
def test_any_string_of_a_model(tmp_path: Path, release: Path, where: str) -> None:
    changed, secret = model(release), SECRETS["anthropic"][0]
    node = changed.graph.node[1]
    if where == "doc":
        changed.doc_string = f"made with {secret}"
    elif where == "node doc":
        node.doc_string = secret
    elif where == "node name":
        node.name = f"/encoder/{secret}"
    elif where == "attribute":
        node.attribute.append(onnx.helper.make_attribute("comment", secret))
    elif where == "producer":
        changed.producer_name = secret
    data = changed.SerializeToString()
    if where == "unknown field":
        data += b"\xfa\x7f" + bytes([len(secret)]) + secret.encode()  # field 2047
    (tmp_path / "m.onnx").write_bytes(data)
    (found,) = scan(tmp_path / "m.onnx")
    assert found.secret.kind == "Anthropic key"


def test_a_model_under_another_name_and_a_damaged_one(tmp_path: Path, release: Path) -> None:
    changed = model(release)
    changed.doc_string = github("ghp")
    data = changed.SerializeToString()
    (tmp_path / "model.bin").write_bytes(data)
    (tmp_path / "broken.onnx").write_bytes(data[:-3])
    for name in ("model.bin", "broken.onnx"):
        assert [found.secret.kind for found in scan(tmp_path / name)] == ["GitHub token"], name


def test_weights_are_told_by_their_content(tmp_path: Path) -> None:
    """Random bytes are weights, whatever they are called; a text that is called so is none."""
    noise = np.random.default_rng(0).bytes(40 << 20)
    token = github("ghp").encode()
    middle = len(noise) // 2
    (tmp_path / "weights.txt").write_bytes(noise[:middle] + b"\0" + token + b"\0" + noise[middle:])
    assert list(scan(tmp_path / "weights.txt")) == []
    (tmp_path / "model.onnx.data").write_bytes(b"a text, and no weights: " + token)
    assert len(list(scan(tmp_path / "model.onnx.data"))) == 1
    (tmp_path / "head.bin").write_bytes(b"\0\1\2" + token + b"\0" + noise)
    (tmp_path / "tail.bin").write_bytes(noise + b"\0" + token)
    for name in ("head.bin", "tail.bin"):
        assert len(list(scan(tmp_path / name))) == 1, name


def test_headers_of_weights(tmp_path: Path) -> None:
    token = github("ghp")
    header = json.dumps({"__metadata__": {"note": token}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(40 << 20))
    text = f"token {token}".encode()
    gguf = (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 1)
        + struct.pack("<Q", 4)
        + b"note"
        + struct.pack("<IQ", 8, len(text))
        + text
    )
    (tmp_path / "a.gguf").write_bytes(gguf + bytes(40 << 20))
    np.lib.format.write_array((tmp_path / "a.npy").open("wb"), np.zeros(3, dtype=[(token, "<f4")]), allow_pickle=False)
    for name in ("a.safetensors", "a.gguf", "a.npy"):
        assert [found.secret.kind for found in scan(tmp_path / name)] == ["GitHub token"], name


def test_core_ml(tmp_path: Path) -> None:
    """A string in protobuf has its length before it, which may be a letter, and a tag behind it, which may be one."""
    for length in range(20, 100, 3):
        token = "sk-ant-" + drawn(ALNUM, length, length)
        field = b"R" + bytes([len(token)]) + token.encode() + b"r"
        (tmp_path / "model.mlmodel").write_bytes(b"\x08\x05\x12" + bytes(200) + field + bytes(200))
        assert [found.secret.kind for found in scan(tmp_path / "model.mlmodel")] == ["Anthropic key"], length


def test_the_recipe_the_scripts_the_card_and_the_results(release: Path) -> None:
    token = github("ghp")
    for name in ("recipe/scripts/convert.py", "measurements/whole.jsonl", "config.json"):
        path = release / name
        path.write_text(path.read_text() + f"\n# {token}\n")
        adopt(release, name)
    card = release / "README.md"
    card.write_text(card.read_text() + token)
    lines = [line for line in reasons(release) if "GitHub token" in line]
    names = {line.split(":")[0] for line in lines}
    assert names == {"recipe/scripts/convert.py", "measurements/whole.jsonl", "config.json", "README.md"}
    assert token not in "\n".join(lines)


def test_no_false_alarm_in_what_this_repo_publishes() -> None:
    """Recipes, their locks and scripts, templates, cards, documents: real files with many digests and names."""
    folders = ("recipes", "templates", "model_cards", "docs", "hubpub", ".github")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [(path, found.place) for path in files for found in scan(path)] == []


def test_no_false_alarm_in_real_packages() -> None:
    """Hundreds of files of the libraries around the Hub, which speak of tokens all the time."""
    import huggingface_hub
    import pip

    files = [
        path
        for package in (huggingface_hub, pip)
        for path in Path(str(package.__file__)).parent.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert len(files) > 500
    assert [(path, found.place) for path in files for found in scan(path)] == []


@given(st.integers(-60, 60), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_secret_among_weights_is_found_wherever_it_lies(shift: int, seed: int) -> None:
    """Also across the edge of what is read at a time, where neither side alone is worth reading."""
    random_bytes = np.random.default_rng(seed)
    before = random_bytes.integers(128, 256, WINDOW - 20 + shift, np.uint8)
    before[:4] = (0, 1, 2, 3)
    after = random_bytes.integers(128, 256, 3000, np.uint8)
    token = "hf_" + drawn(string.ascii_letters, 34, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.bin")
        path.write_bytes(before.tobytes() + token.encode() + after.tobytes())
        assert [found.secret.kind for found in scan(path)] == ["Hugging Face token"]
