"""Every reason why a release must not be published; asked before the network is touched."""

from __future__ import annotations

from collections import defaultdict
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from hubpub.build.release import verify_release
from hubpub.coremlfile.marks import is_synthetic
from hubpub.errors import CoremlFileError, GateError, HubpubError, OnnxFileError, ReleaseError
from hubpub.gate import judge
from hubpub.manifest import MANIFEST, Manifest
from hubpub.onnxfile.interface import graph_bytes, parse_graph
from hubpub.onnxfile.marks import says_synthetic
from hubpub.publish.dropin import drop_in_refusals, loader_refusals
from hubpub.publish.licence import licence_refusals
from hubpub.publish.scan import secrets_in
from hubpub.recipe import Recipe
from hubpub.recipe.model import PublishSpec
from hubpub.report import Reporter


def refusals(
    folder: Path,
    manifest: Manifest,
    recipe: Recipe,
    spec: PublishSpec,
    *,
    endpoint: str,
    allow_provisional: bool,
    reporter: Reporter,
) -> list[str]:
    """All reasons at once, a line each that says what, where and what to do; none: it may be published.

    Every byte of the release is read once and compared with the manifest, so that the digests which the manifest lists
    serve the commit. Nothing is asked of the network.

    Args:
        folder: the release.
        manifest: what ``read_manifest`` gives for it.
        recipe: the recipe that it was built from.
        spec: the ``publish`` section of that recipe.
        endpoint: the Hub that it goes to; synthetic models go to one on loopback only.
        allow_provisional: stand-in calibration is no reason.
        reporter: is told of the bytes read.
    """
    listed = manifest.listed_files()
    # Once for the digests, once in search of secrets; the manifest is only searched.
    total = 2 * sum(file.size for file in listed.values()) + (folder / MANIFEST).stat().st_size
    reporter.start("checks", f"check {manifest.name}", total)
    found = [
        *_gates(manifest, recipe),
        *_files(folder, reporter),
        *([] if allow_provisional else _provisional(manifest)),
        *_synthetic(folder, manifest, endpoint),
        *secrets_in(folder, [*sorted(listed), MANIFEST], reporter),
        *loader_refusals(folder, manifest, recipe),
        *drop_in_refusals(folder, manifest, spec),
        *licence_refusals(manifest, recipe),
    ]
    found = [" ".join(line.split()) for line in dict.fromkeys(found)]
    reporter.end("checks", f"{len(found)} reasons against it" if found else "nothing against it")
    return found


def is_loopback(endpoint: str) -> bool:
    """Whether a URL names this machine itself; no name but ``localhost`` is trusted to."""
    if "\\" in endpoint or any(char.isspace() for char in endpoint):
        return False
    try:
        host = urlsplit(endpoint).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _gates(manifest: Manifest, recipe: Recipe) -> list[str]:
    """Failed, missing and stale; gates are judged again, on the figures and files of the manifest."""
    lines = [f"{line}; no such release is published, build one that meets it" for line in manifest.missed()]
    if manifest.partial:
        lines.append("only a part of the recipe was built; build it whole, without --only and --variant")
    digests = {path: file.sha256 for path, file in manifest.files.items()}
    measurements = manifest.all_measurements()
    stale: dict[str, set[str]] = defaultdict(set)
    for each in measurements:
        stale[each.run].update(name for name, sha256 in each.artifacts.items() if digests.get(name) != sha256)
    lines += [
        f"run {run}: measured on other bytes of {', '.join(sorted(names))} than the release holds; build it again"
        for run, names in stale.items()
        if names
    ]
    judged = {verdict.gate: verdict for verdict in manifest.all_verdicts()}
    if recipe.gates and not measurements:
        lines.append(f"the recipe has {len(recipe.gates)} gates and nothing was measured; build the whole recipe")
        return lines
    for gate in recipe.gates:
        if gate not in judged:
            lines.append(f"budget not judged: {gate}; build the whole recipe again")
        elif judged[gate].passed and not (again := judge([gate], measurements, digests)[0]).passed:
            lines.append(f"budget missed: {gate}: {again.reason}, though it is recorded as met; build it again")
    return lines


def _files(folder: Path, reporter: Reporter) -> list[str]:
    from hubpub.store import FileDigest, sha256_of

    def digest_of(path: Path) -> FileDigest:
        digest = sha256_of(path)
        reporter.advance(digest.size)
        return digest

    try:
        verify_release(folder, digest_of)
    except GateError:
        return []  # `_gates` says it
    except ReleaseError as error:
        fix = error.fix or "build it again"
        return [f"{part}; {fix}" for part in error.what.split("; ")]
    except HubpubError as error:
        return [str(error)]
    return []


def _provisional(manifest: Manifest) -> list[str]:
    fix = "calibrate on the real one, or publish with --provisional"
    return [f"provisional: {each}; {fix}" for each in manifest.provisional]


def _synthetic(folder: Path, manifest: Manifest, endpoint: str) -> list[str]:
    """Random weights leave this machine under no circumstances."""
    if is_loopback(endpoint):
        return []
    fix = "publish it to a Hub on loopback (`hubpub hub serve`), or build it from real weights"
    lines = [f"{path}: is marked synthetic; {fix}" for path in manifest.files if _marked(folder / path)]
    if manifest.synthetic:
        lines.append(f"the release is synthetic, from random weights or made-up audio; {fix}")
    return lines


def _marked(path: Path) -> bool:
    """Also where the model's external data is not there."""
    if path.suffix not in (".onnx", ".mlmodel") or not path.is_file():
        return False
    try:
        if path.suffix == ".mlmodel":
            return is_synthetic(path)
        return says_synthetic(parse_graph(graph_bytes(path), str(path)))
    except (OnnxFileError, CoremlFileError):
        return False
