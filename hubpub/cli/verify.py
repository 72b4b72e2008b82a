"""``hubpub verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubpub.cli.common import AsJson, Quiet, print_json, size


def verify(
    release: Annotated[Path, typer.Argument(help="A release folder.", show_default=False)],
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check every byte of a release folder against its manifest.

    Example: hubpub verify dist/whisper-tiny.en
    """
    from hubpub.build import verify_release

    manifest = verify_release(release)
    listed = manifest.listed_files()
    total = sum(file.size for file in listed.values())
    if json:
        print_json({"ok": True, "name": manifest.name, "digest": manifest.digest, "files": len(listed), "bytes": total})
    elif not quiet:
        typer.echo(f"{release}: ok, {len(listed)} files, {size(total)}, digest {manifest.digest}")
