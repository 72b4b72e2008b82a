"""From a recipe to a finished release folder."""

from hubpub.build.build import Built, build, lock, plan
from hubpub.build.release import verify_release
from hubpub.report import Reporter, Silent

__all__ = ["Built", "Reporter", "Silent", "build", "lock", "plan", "verify_release"]
