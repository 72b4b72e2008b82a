"""Making, changing and deleting repos, branches and tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from hubpub.localhub.call import Call, answer, api, plain
from hubpub.localhub.refusal import Refusal, anonymous, bad_request, forbidden, no_repo, no_revision

if TYPE_CHECKING:
    from hubpub.localhub.repos import Kind
    from hubpub.localhub.tokens import Token


def routes() -> list[Route]:
    """The routes that manage repos and refs."""
    return [
        plain("/api/repos/create", create, "POST"),
        plain("/api/repos/delete", delete, "DELETE"),
        api("/settings", settings, "PUT"),
        api("/branch/{branch}", create_branch, "POST"),
        api("/branch/{branch}", delete_branch, "DELETE"),
        api("/tag/{rev}", create_tag, "POST"),
        api("/tag/{rev}", delete_tag, "DELETE"),
    ]


def _named(call: Call) -> tuple[Token, Kind, str]:
    """Who asks, and the repo that the body names; a name without an owner is the user's own."""
    token = call.token
    if token is None:
        raise anonymous()
    named = call.json.get("type") or "model"
    if named not in {"model", "dataset"}:
        raise bad_request(f"this Hub keeps models and datasets, no {named}")
    kind: Kind = "model" if named == "model" else "dataset"
    return token, kind, f"{call.json.get('organization') or token.user}/{call.json.get('name')}"


def create(call: Call) -> Response:
    """Make a repo; the address is in the answer also when it is there already."""
    token, kind, name = _named(call)
    namespace = name.partition("/")[0]
    existing = call.hub.repos.find(kind, name)
    owners = call.hub.repos.namespace_owners(namespace)
    stranger = namespace != token.user and (call.hub.tokens.is_user(namespace) or (owners and token.user not in owners))
    if token.role != "write" or token.repo is not None or stranger:
        raise forbidden(f'Forbidden: you don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    if existing:
        url = call.url(existing)
        raise Refusal(
            409,
            f"You already created this {kind} repo",
            body={"error": f"You already created this {kind} repo", "url": url},
        )
    private = call.json.get("visibility") == "private" or call.json.get("private") is True
    repo = call.hub.repos.create(kind, name, token.user, private=private)
    return answer({"url": call.url(repo), "name": repo.name, "id": f"{repo.id:024x}"})


def delete(call: Call) -> Response:
    """Delete a repo."""
    token, kind, name = _named(call)
    repo = call.hub.repos.find(kind, name)
    if repo is None or (repo.private and not call.is_member(repo)):
        raise no_repo()
    if token.role != "write" or token.repo is not None or not call.is_member(repo):
        raise forbidden(f"Forbidden: you don't have the rights to delete {name}")
    call.hub.repos.delete(repo)
    return answer({})


def settings(call: Call) -> Response:
    """Make a repo private or public, or gate it."""
    call.writer()
    visibility, gated = call.json.get("visibility"), call.json.get("gated")
    if visibility not in {None, "private", "public"} or gated not in {None, False, "auto", "manual"}:
        raise bad_request("visibility is private or public, gated is auto, manual or false")
    call.hub.repos.update(
        call.repo,
        private=None if visibility is None else visibility == "private",
        gated=None if gated is None else gated or "false",
    )
    return answer(call.json)


def create_branch(call: Call) -> Response:
    """Make a branch at a revision, by default the head of main."""
    call.writer()
    start = call.hub.repos.resolve(call.repo, str(call.json.get("startingPoint") or "main"))
    call.hub.repos.add_ref(call.repo, f"refs/heads/{call.part('branch')}", start.oid)
    return answer({})


def delete_branch(call: Call) -> Response:
    """Delete a branch; main stays."""
    call.writer()
    if call.part("branch") == "main":
        raise forbidden("Cannot delete the main branch")
    call.hub.repos.drop_ref(call.repo, f"refs/heads/{call.part('branch')}")
    return answer({})


def create_tag(call: Call) -> Response:
    """Tag a revision; a tag that is there already stays where it is."""
    call.writer()
    tag = call.json.get("tag")
    if not isinstance(tag, str):
        raise bad_request("the tag has no name")
    call.hub.repos.add_ref(call.repo, f"refs/tags/{tag}", call.commit().oid)
    return answer({})


def delete_tag(call: Call) -> Response:
    """Delete a tag."""
    call.writer()
    name = f"refs/tags/{call.part('rev')}"
    if call.hub.repos.ref(call.repo, name) is None:
        raise no_revision(call.part("rev"))
    call.hub.repos.drop_ref(call.repo, name)
    return answer({})
