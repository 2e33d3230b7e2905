"""Exports on the Hugging Face hub. huggingface_hub is imported when one is pushed or pulled."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from nnunet_mamba.sharing.manifest import (
    CARD,
    DATASET,
    MANIFEST,
    PLANS,
    check_digests,
    is_export,
    read_manifest,
)

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
    """Download an export into the hub's cache, and return its folder; what the cache holds damaged is
    downloaded again. ValueError if the hub has no export there, or does not give it.

    Args:
        revision: branch, tag or commit; None: the main branch.
    """
    folder = _download(repo, revision)
    if not is_export(folder):
        raise ValueError(f"{SCHEME}{repo} is no export: it has no {MANIFEST}, which `export-model` writes.")
    files = read_manifest(folder).files
    try:
        check_digests(folder, files)
    except ValueError:  # the hub's client takes files in its cache as they are
        folder = _download(repo, revision, force_download=True)
    return folder


def _download(repo: str, revision: str | None, **options: bool) -> Path:
    api = load_api()
    from huggingface_hub import constants, errors

    log_in = "log in (hf auth login, or HF_TOKEN) as someone who may read it"
    try:
        return Path(api.snapshot_download(repo, revision=revision, allow_patterns=FILES, **options))
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"{SCHEME}{repo} has no revision {revision or 'main'}; expected a branch, a tag or a commit."
        ) from error
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{SCHEME}{repo} is gated: ask for access at {constants.ENDPOINT}/{repo}, and {log_in}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{SCHEME}{repo} does not exist, or is private: look at the name, or {log_in}."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{SCHEME}{repo} could not be downloaded: {_say(error)}. Run the same command again: files that "
            "are complete are kept."
        ) from error


def _say(error: Exception) -> str:
    """Return an error's message on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
