"""What a repo holds: info, tree, paths-info, refs, commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from starlette.responses import Response
from starlette.routing import Route

from hubpub.localhub.call import Call, answer, api, plain
from hubpub.localhub.gitids import pointer
from hubpub.localhub.metadata import card_data
from hubpub.localhub.refusal import anonymous, no_entry

if TYPE_CHECKING:
    from hubpub.localhub.repos import Commit, Entry

_EXPANDED_PAGE = 50


def routes() -> list[Route]:
    """The routes that read."""
    return [
        plain("/api/whoami-v2", whoami),
        api("", info),
        api("/revision/{rev}", info),
        api("/auth-check", auth_check),
        api("/auth-check/write", auth_check_write),
        api("/tree/{rev}", tree),
        api("/tree/{rev}/{path:path}", tree),
        api("/paths-info/{rev}", paths_info, "POST"),
        api("/refs", refs),
        api("/commits/{rev}", commits),
        api("/parquet", parquet),
        api("/xet-read-token/{rev}", xet_token),
        api("/xet-write-token/{rev}", xet_token),
    ]


def whoami(call: Call) -> Response:
    """Name of the user and role of the token."""
    token = call.token
    if token is None:
        raise anonymous()
    return answer(
        {
            "type": "user",
            "id": token.user,
            "name": token.user,
            "fullname": token.user,
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": {"displayName": "localhub", "role": token.role}},
        }
    )


def info(call: Call) -> Response:
    """Info of the repo at a revision; ``blobs`` adds the sizes and ids of files, ``expand`` picks fields."""
    repo, commit = call.repo, call.commit()
    files = call.hub.repos.files(commit.tree)
    siblings: list[dict[str, Any]] = []
    for path, file in files.items():
        sibling: dict[str, Any] = {"rfilename": path}
        if call.query.get("blobs", "false").lower() in {"true", "1"}:
            sibling |= {"size": file.size, "blobId": file.oid}
            if file.lfs:
                size = len(pointer(file.sha256, file.size))
                sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": size}
        siblings.append(sibling)
    card = card_data(call.hub.blobs.path(files["README.md"].sha256)) if "README.md" in files else {}
    value = {
        "_id": f"{repo.id:024x}",
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.name.partition("/")[0],
        "sha": commit.oid,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated if repo.gated != "false" else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": _tags(card),
        "cardData": card,
        "siblings": siblings,
        "usedStorage": sum({file.sha256: file.size for file in files.values()}.values()),
    }
    if repo.kind == "model":
        value |= {key: card[key] for key in ("pipeline_tag", "library_name", "model-index") if key in card}
    else:
        del value["modelId"]
    wanted = call.query.getlist("expand") + call.query.getlist("expand[]")
    if wanted:
        value = {key: value[key] for key in ("_id", "id", *wanted) if key in value}
    return answer(value)


def _tags(card: dict[str, Any]) -> list[str]:
    tags = card.get("tags")
    found = [str(tag) for tag in tags] if isinstance(tags, list) else []
    for key in ("license", "base_model", "language"):
        values = card.get(key)
        for value in values if isinstance(values, list) else [values] if values else []:
            found.append(str(value) if key == "language" else f"{key}:{value}")
    return found


def auth_check(call: Call) -> Response:
    """Whether the one who asks may read."""
    call.repo  # noqa: B018 - asking for it is the check
    check_gate(call)
    return answer({})


def auth_check_write(call: Call) -> Response:
    """Whether the one who asks may write."""
    call.writer()
    return answer({})


def check_gate(call: Call) -> None:
    """Refuse the files of a gated repo to those who have not been let in: here, all but its members."""
    from hubpub.localhub.refusal import Refusal

    if call.repo.gated != "false" and not call.is_member(call.repo):
        status, why = (403, "you are not in the authorized list") if call.token else (401, "you must be authenticated")
        raise Refusal(status, f"Access to {call.repo.kind} {call.repo.name} is restricted, {why}", code="GatedRepo")


def entry_json(call: Call, entry: Entry, last: Commit | None = None) -> dict[str, Any]:
    """A file or folder as tree and paths-info show it."""
    file = entry.file
    value: dict[str, Any] = {"type": "file", "path": entry.path, "oid": entry.oid, "size": file.size if file else 0}
    if file is None:
        value["type"] = "directory"
    elif file.lfs:
        size = len(pointer(file.sha256, file.size))
        value["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": size}
        if call.hub.cas and (xet := call.hub.cas.xet_hash(file.sha256)):
            value["xetHash"] = xet
    if last:
        value["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return value


def _entries_json(call: Call, commit: Commit, entries: Sequence[Entry], *, expand: bool) -> list[dict[str, Any]]:
    last = call.hub.repos.last_commits(call.repo, commit, entries) if expand else {}
    return [entry_json(call, entry, last.get(entry.path)) for entry in entries]


def tree(call: Call) -> Response:
    """A page of a folder."""
    commit = call.commit()
    repos = call.hub.repos
    folder = call.part("path").strip("/") if "path" in call.request.path_params else ""
    if folder and ((found := repos.entry(commit.tree, folder)) is None or found.file is not None):
        raise no_entry(f"{folder} does not exist on this revision", commit=commit.oid)
    recursive, expand = (call.query.get(name, "").lower() in {"true", "1"} for name in ("recursive", "expand"))
    limit = min(call.hub.page_size, _EXPANDED_PAGE if expand else call.hub.page_size)
    after = call.query.get("cursor", "")
    entries = repos.listing(commit.tree, folder, recursive=recursive, after=after, limit=limit + 1)
    headers = {}
    if len(entries) > limit:
        entries = entries[:limit]
        query = urlencode({**dict(call.query), "cursor": entries[-1].path})
        # the revision of the address may move between two pages
        address = f"{call.hub.endpoint}/api/{call.kind}s/{call.repo.name}/tree/{commit.oid}"
        if folder:
            address += "/" + call.request.path_params["path"]
        headers["Link"] = f'<{address}?{query}>; rel="next"'
    return answer(_entries_json(call, commit, entries, expand=expand), headers=headers)


def paths_info(call: Call) -> Response:
    """The files and folders at some paths; those that are not there are left out."""
    commit = call.commit()
    form = parse_qs(call.body.decode(errors="replace"))
    if call.request.headers.get("content-type", "").startswith("application/json"):
        form = {"paths": list(call.json.get("paths", [])), "expand": [str(call.json.get("expand", False))]}
    entries = [call.hub.repos.entry(commit.tree, path.strip("/")) for path in form.get("paths", [])]
    expand = form.get("expand", ["false"])[0].lower() in {"true", "1"}
    return answer(_entries_json(call, commit, [entry for entry in entries if entry], expand=expand))


def refs(call: Call) -> Response:
    """Branches, tags and, where asked for, pull requests."""
    value: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    if call.query.get("include_prs"):
        value["pullRequests"] = []
    places = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
    for ref, target in call.hub.repos.refs(call.repo).items():
        _, place, name = ref.split("/", 2)
        if places[place] in value:
            value[places[place]].append({"name": name, "ref": ref, "targetCommit": target})
    return answer(value)


def commits(call: Call) -> Response:
    """A page of the history, newest first."""
    limit = min(call.hub.page_size, _EXPANDED_PAGE)
    history = list(call.hub.repos.history(call.repo, call.commit()))
    page = int(call.query.get("p", "0")) if call.query.get("p", "0").isdecimal() else 0
    headers = {"X-Total-Count": str(len(history))}
    if len(history) > (page + 1) * limit:
        query = urlencode({**dict(call.query), "p": page + 1})
        address = f"{call.hub.endpoint}/api/{call.kind}s/{call.repo.name}/commits/{history[0].oid}"
        headers["Link"] = f'<{address}?{query}>; rel="next"'
    return answer(
        [
            {
                "id": each.oid,
                "title": each.title,
                "message": each.message,
                "date": each.date,
                "authors": [{"user": each.author}],
            }
            for each in history[page * limit : (page + 1) * limit]
        ],
        headers=headers,
    )


def parquet(call: Call) -> Response:
    """The parquet files of a dataset by configuration and split; the path tells the split."""
    found: dict[str, list[str]] = {}
    for path in call.hub.repos.files(call.commit().tree):
        if path.endswith(".parquet"):
            split = next((name for name in ("train", "validation", "test") if name in path), "train")
            found.setdefault(split, []).append(call.url(call.repo, "resolve", "main", path))
    return answer({"default": found} if found else {})


def xet_token(call: Call) -> Response:
    """Where the Xet store is, and a token for it; without Xet there is no such place."""
    if call.hub.cas is None:
        raise no_entry("Xet is not enabled for this repo")
    scope: Any = "write" if "/xet-write-token/" in call.request.url.path else "read"
    if scope == "write":
        call.pusher()
    elif call.part("rev") != "None":
        call.commit()
    access, expiry = call.hub.cas.token(scope, call.repo.path)
    url = f"{call.hub.endpoint}/xet"
    return answer(
        {"accessToken": access, "exp": expiry, "casUrl": url},
        headers={
            "X-Xet-Cas-Url": url,
            "X-Xet-Access-Token": access,
            "X-Xet-Token-Expiration": str(expiry),
        },
    )
