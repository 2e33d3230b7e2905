"""Exports on the Hugging Face hub. huggingface_hub is imported when one is pushed or pulled."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from nnunet_mamba.sharing.manifest import CARD, DATASET, MANIFEST, PLANS, is_export

SCHEME = "hf://"
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
FILES = [MANIFEST, CARD, PLANS, DATASET, "fold_*.safetensors", "fold_*.json"]
INSTALL = "The hub needs huggingface-hub: pip install huggingface-hub"


def check_repo(repo: str) -> str:
    """Return OWNER/NAME. ValueError for other texts."""
    if not REPO.fullmatch(repo):
        raise ValueError(f"{repo!r} is no repository of the hub; expected OWNER/NAME.")
    return repo


def load_api() -> Any:
    """Return a client of the hub, with the user's own token. ValueError without the extra."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ValueError(f"{INSTALL} ({error}).") from error
    return HfApi(library_name="nnunet_mamba")


def push_export(folder: Path, repo: str, *, private: bool) -> str:
    """Upload an export, in place of one that was there, and return its address.

    ValueError if the hub refuses it, and for a public repository where a private one is asked for: nothing is
    uploaded then.
    """
    api = load_api()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        is_public = private and not api.model_info(repo).private
    except Exception as error:  # of the network, of the hub, of its client
        raise ValueError(
            f"{folder} is complete, but {repo} could not be made ready for it: {_say(error)}."
        ) from error
    if is_public:
        raise ValueError(
            f"{folder} is complete, but was not pushed: {repo} exists and is public. Make it private there, "
            "or push without --private."
        )
    try:
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Export of nnunet_mamba",
            allow_patterns=FILES,
            delete_patterns=FILES,  # folds of an earlier export
        )
    except Exception as error:
        again = ("hf", "upload", repo, str(folder), ".")
        raise ValueError(
            f"{folder} is complete, but could not be pushed to {repo}: {_say(error)}. Once that is mended, "
            f"push it with the hub's own command: {shlex.join(again)}"
        ) from error
    return str(address)


def pull_export(repo: str, revision: str | None = None) -> Path:
    """Download an export into the hub's cache, and return its folder. ValueError if the hub has none.

    Args:
        revision: branch, tag or commit; None: the main branch.
    """
    api = load_api()
    try:
        folder = Path(api.snapshot_download(repo, revision=revision, allow_patterns=FILES))
    except Exception as error:
        at = f" at {revision}" if revision else ""
        raise ValueError(f"{SCHEME}{repo}{at} could not be downloaded: {_say(error)}.") from error
    if not is_export(folder):
        raise ValueError(f"{SCHEME}{repo} is no export: it has no {MANIFEST}, which `export-model` writes.")
    return folder


def _say(error: Exception) -> str:
    """Return an error's message on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
