"""Show what a release's card says of its variants side by side, where there are at least three: fp32, fp16, int8.

python demo/side_by_side.py dist/whisper-tiny.en
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hubpub.card.tables import side_by_side
from hubpub.manifest import read_manifest


def main() -> None:
    """Print the tables of runs that share a corpus."""
    console = Console(width=None if sys.stdout.isatty() else 180)
    for each in side_by_side(read_manifest(Path(sys.argv[1]))):
        if len(each["rows"]) < 3:
            continue
        table = Table(title=f"{each['corpus']}, by {each['client']}", title_justify="left", box=SIMPLE)
        for name in each["head"]:
            table.add_column(name.replace("<br>", "\n"))
        for row in each["rows"]:
            table.add_row(*(cell.replace("<br>", "\n") for cell in row))
        console.print(table)


if __name__ == "__main__":
    main()
