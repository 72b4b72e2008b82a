"""``hubpub cache``."""

from __future__ import annotations

from typing import Annotated

import typer

from hubpub.cli.common import AsJson, CacheFolder, Quiet, print_json, size
from hubpub.report import counted

app = typer.Typer(help="Look at the cache, verify it, or free space in it.", no_args_is_help=True)


@app.command("list")
def list_(cache: CacheFolder = None, json: AsJson = False) -> None:
    """List what the cache holds.

    Example: hubpub cache list
    """
    import datetime

    from hubpub.store import Store, default_root

    with Store(cache or default_root()) as store:
        blobs = list(store.blobs())
        results = list(store.results())
    total = sum(blob.size for blob in blobs)
    if json:
        print_json(
            {
                "folder": str(store.root),
                "blobs": len(blobs),
                "bytes": total,
                "results": [
                    {"key": key, "last_used": used, "outputs": {name: out.size for name, out in result.outputs.items()}}
                    for key, result, used in results
                ],
            }
        )
        return
    for key, result, used in sorted(results, key=lambda each: each[2]):
        when = datetime.datetime.fromtimestamp(used).isoformat(sep=" ", timespec="minutes")
        names = ", ".join(result.outputs) or "no files"
        shown = names if len(names) < 80 else f"{names[:77]}…"
        typer.echo(f"{when}  {key[:12]}  {size(sum(out.size for out in result.outputs.values())):>8}  {shown}")
    typer.echo(f"{store.root}: {len(results)} results, {len(blobs)} blobs, {size(total)}")


@app.command()
def verify(cache: CacheFolder = None, json: AsJson = False, quiet: Quiet = False) -> None:
    """Read every byte of the cache; what is damaged is removed and made anew by the next build.

    Example: hubpub cache verify
    """
    from hubpub.store import Store, default_root

    with Store(cache or default_root()) as store:
        damage = list(store.verify())
    if json:
        print_json({"ok": not damage, "damage": [vars(each) for each in damage]})
    elif not quiet:
        for each in damage:
            typer.echo(f"{each.what}: {each.why}")
        typer.echo("ok" if not damage else f"{len(damage)} removed")
    if damage:
        raise typer.Exit(1)


@app.command()
def collect(
    unused_for: Annotated[
        float, typer.Option(help="Days since the last use after which something is removed.", min=0)
    ] = 30,
    cache: CacheFolder = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove what no build has used lately.

    Example: hubpub cache collect --unused-for 7
    """
    from hubpub.store import Store, default_root

    with Store(cache or default_root()) as store:
        count, freed = store.collect(unused_for=unused_for * 86400)
    if json:
        print_json({"files": count, "bytes": freed})
    elif not quiet:
        typer.echo(f"removed {counted(count, 'files')}, {size(freed)}")
