"""``hubpub plan``."""

from __future__ import annotations

import typer

from hubpub.cli.common import (
    AsJson,
    CacheFolder,
    Locked,
    Only,
    Quiet,
    RecipePath,
    Variant,
    choices_in_words,
    print_json,
    size,
)
from hubpub.cli.progress import reporter


def plan(
    recipe: RecipePath,
    only: Only = None,
    variant: Variant = None,
    locked: Locked = False,
    cache: CacheFolder = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what a build would do: its steps, which are cached, bytes to fetch and to write.

    Example: hubpub plan recipes/whisper-tiny.en.yaml
    """
    from hubpub.build import plan as make_plan
    from hubpub.store import Store, default_root

    with Store(cache or default_root()) as store, reporter(quiet=quiet or json) as report:
        made, forecast = make_plan(recipe, store, report, locked=locked, only=only, variant=variant)
    fetch = sum(forecast.bytes_to_fetch.values())
    if json:
        print_json(
            {
                "steps": [
                    {"name": task.name, "kind": task.kind, "state": forecast.states[task.name]} for task in made.tasks
                ],
                "bytes_to_fetch": forecast.bytes_to_fetch,
                "bytes_to_write": forecast.bytes_to_write,
                "choices": {choice.name: choice.chosen for choice in made.decided},
                "missing": {name: [clip.audio for clip in each.clips] for name, each in made.missing.items()},
                "not_run": dict(made.not_run),
                "publishes": [published.path for published in made.published],
            }
        )
        return
    if quiet:
        return
    words = {
        "cached": "cached",
        "run": "will run",
        "waits": "will run, unless what it waits for comes out unchanged",
        "perhaps": "will run if no rung above passes its gates",
    }
    for task in made.tasks:
        typer.echo(f"{task.name:40} {task.kind:14} {words[forecast.states[task.name]]}")
    for line in choices_in_words(made.decided):
        typer.echo(line)
    for name, count in forecast.bytes_to_fetch.items():
        typer.echo(f"{name:40} {'fetch':14} {size(count)}")
    typer.echo(f"to fetch: {size(fetch)}; to write: at least {size(forecast.bytes_to_write)}")
