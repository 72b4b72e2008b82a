"""What a reader of a card can listen to: for each corpus its texts, and where every run said them."""

from __future__ import annotations

from typing import Any

from hubpub.manifest import Manifest


def listen(manifest: Manifest) -> list[dict[str, Any]]:
    """The corpora whose texts were said, in the order of the recipe.

    Returns:
        For each its ``name``; its ``runs``; those ``kept``, whose audio lies in the release; its ``prompts``: id, text,
        source and ``audio``, from the run to the path of the file.
    """
    measured = {each.run: each.corpus for each in manifest.all_measurements() if each.corpus}
    found = []
    for name, corpus in manifest.corpora.items():
        runs = [run for run in manifest.runs if measured.get(run) == corpus.digest]
        prompts = [
            {
                "id": clip.id,
                "text": clip.text,
                "source": clip.provenance.source,
                "license": clip.provenance.license,
                "audio": {run: path for run in runs if (path := audio_path(run, clip.id)) in manifest.records},
            }
            for clip in corpus.clips
            if clip.text is not None
        ]
        kept = [run for run in runs if any(audio_path(run, clip.id) in manifest.records for clip in corpus.clips)]
        if kept or (corpus.clips and not corpus.recorded):
            found.append({"name": name, "runs": runs, "kept": kept, "prompts": prompts})
    return found


def audio_path(run: str, clip: str) -> str:
    """Where a release keeps what a run made of a clip."""
    return f"measurements/{run}/{clip}.flac"
