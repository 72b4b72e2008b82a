"""``hubpub verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubpub.cli.common import AsJson, Quiet, print_json, size
from hubpub.report import counted

if TYPE_CHECKING:
    from hubpub.manifest import Manifest


def verify(
    release: Annotated[
        str,
        typer.Argument(
            help="A release folder, or OWNER/REPO[@REVISION] on the Hub.", show_default=False, metavar="RELEASE"
        ),
    ],
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check every byte of a release against its manifest: of a folder, or of a repo, which is downloaded.

    Example: hubpub verify dist/whisper-tiny.en
    """
    manifest = _verify(release, quiet or json)
    listed = manifest.listed_files()
    total = sum(file.size for file in listed.values())
    if json:
        print_json({"ok": True, "name": manifest.name, "digest": manifest.digest, "files": len(listed), "bytes": total})
    elif not quiet:
        typer.echo(f"{release}: ok, {counted(len(listed), 'files')}, {size(total)}, digest {manifest.digest}")


def _verify(release: str, quiet: bool) -> Manifest:
    if not Path(release).exists():
        from hubpub.cli.progress import reporter
        from hubpub.errors import SourceError
        from hubpub.publish.verify import remote_address, verify_remote

        if address := remote_address(release):
            try:
                with reporter(quiet=quiet) as report:
                    return verify_remote(*address, report)
            except SourceError as error:
                if release.startswith("hf://") or "no such repo" not in error.what:
                    raise
                what = f"{error.what}, and there is no folder of that name"
                raise SourceError(what, where=error.where, fix=error.fix) from error
    from hubpub.build import verify_release

    return verify_release(Path(release))
