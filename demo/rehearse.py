"""Publish a release to a Hub on loopback, load it back from there by its repo id as a user would, and verify it.

python demo/rehearse.py dist/whisper-tiny.en
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from hubpub.localhub import LocalHub
from hubpub.manifest import read_manifest
from hubpub.recipe import load_recipe
from hubpub.store import Store, default_root

SPEECH = "moonshine_voice/assets/two_cities.wav"
TRANSCRIBE = """
import sys, onnx_asr, soundfile
model = onnx_asr.load_model(sys.argv[1])
samples, rate = soundfile.read(sys.argv[2], dtype="float32", frames=int(sys.argv[3]))
print(model.recognize(samples, sample_rate=rate, language="en"))
"""


def main() -> None:
    """Run the four commands that a publisher and a user would run, with HF_ENDPOINT pointing at the Hub on loopback."""
    release = Path(sys.argv[1])
    manifest = read_manifest(release)
    publish = load_recipe(release / manifest.recipe).recipe.publish
    assert publish is not None, "the recipe says where the release is published"
    with tempfile.TemporaryDirectory() as scratch, LocalHub(Path(scratch, "hub")) as hub:
        client = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token(), "HF_HOME": str(Path(scratch, "home"))}
        client["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        client["ORT_DISABLE_TELEMETRY"] = "1"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | client
        print(f"a Hub on loopback: HF_ENDPOINT={hub.endpoint}", flush=True)
        hubpub = str(Path(sys.executable).with_name("hubpub"))
        call(environment, hubpub, "publish", str(release))
        call(environment, hubpub, "publish", str(release))  # the same again: nothing to do
        speech = Path(scratch, "speech.wav")
        with Store(default_root()) as store:
            source = next(each for each in manifest.sources.values() if SPEECH in each.files)
            speech.write_bytes(store.path(source.files[SPEECH].sha256).read_bytes())
        print(f"$ onnx_asr.load_model({publish.repo!r}).recognize(the first 12 s of {SPEECH})", flush=True)
        call(environment, sys.executable, "-c", TRANSCRIBE, publish.repo, str(speech), str(12 * 48_000), shown=False)
        call(environment, hubpub, "verify", publish.repo)


def call(environment: dict[str, str], *command: str, shown: bool = True) -> None:
    """Run a command; the demo ends when it fails."""
    if shown:
        print(f"$ {shlex.join([Path(command[0]).name, *command[1:]])}", flush=True)
    if code := subprocess.run(command, env=environment).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
