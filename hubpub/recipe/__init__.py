"""What a recipe may say, how it is read, and its lock file."""

from hubpub.recipe.check import template_file, unsafe_path
from hubpub.recipe.folders import known_as, members
from hubpub.recipe.load import LoadedRecipe, load_recipe
from hubpub.recipe.lock import Lock, lock_path, locked_file, read_lock, write_lock
from hubpub.recipe.model import Recipe, RunSpec, ScriptStep
from hubpub.recipe.schema import recipe_schema

__all__ = [
    "LoadedRecipe",
    "Lock",
    "Recipe",
    "RunSpec",
    "ScriptStep",
    "known_as",
    "load_recipe",
    "lock_path",
    "locked_file",
    "members",
    "read_lock",
    "recipe_schema",
    "template_file",
    "unsafe_path",
    "write_lock",
]
