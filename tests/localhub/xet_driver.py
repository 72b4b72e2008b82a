"""hf_xet doing one job, told as JSON on standard input, as huggingface_hub 2.4 would have it done."""

from __future__ import annotations

import json
import sys

import hf_xet  # type: ignore[import-untyped]

job = json.load(sys.stdin)
if job["verb"] == "hash":
    print(json.dumps([info.hash for info in hf_xet.hash_files(job["paths"])]))
    sys.exit()

config = hf_xet.XetConfig().with_config("client.retry_max_attempts", job["retries"])
session = hf_xet.XetSession(config.with_config("client.retry_base_delay", "100ms"))
if job["verb"] == "up":
    with session.new_upload_commit(token_refresh_url=f"{job['url']}/token/write", token_refresh_headers={}) as commit:
        handles = [commit.start_upload_file(path, sha256=hf_xet.COMPUTE_SHA256) for path in job["paths"]]
    results = [handle.result() for handle in handles]
    rows = [(r.xet_info.hash, r.xet_info.file_size, r.xet_info.sha256, r.dedup_metrics.new_bytes) for r in results]
    print(json.dumps(rows))
else:
    with session.new_file_download_group(
        token_refresh_url=f"{job['url']}/token/read", token_refresh_headers={}
    ) as group:
        for xet_hash, size, path in job["files"]:
            group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), path)
    print("null")
