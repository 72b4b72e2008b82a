"""The model card: rendered from the manifest and from nothing else."""

from hubpub.card.render import render_card

__all__ = ["render_card"]
