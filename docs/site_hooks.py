"""Hooks of mkdocs.yml: links out of docs/ work on the site as they do in the repository."""

import re
from pathlib import Path

from mkdocs.exceptions import PluginError

from nnunet_mamba import __version__

OUTSIDE = re.compile(r"\]\((?P<path>\.\./[^)#\s]*)")


def on_page_markdown(markdown, page, config, files):
    """Turn links to files outside docs/ into addresses in the repository at this version.

    Raises PluginError, which names the page, for a link to a file that does not exist.
    """
    folder = (Path(config.docs_dir) / page.file.src_uri).parent
    repository = Path(config.docs_dir).parent.resolve()

    def address(link: re.Match[str]) -> str:
        target = (folder / link["path"]).resolve()
        if Path(config.docs_dir).resolve() in target.parents:
            return link[0]
        if not target.exists() or repository not in target.parents:
            raise PluginError(
                f"{page.file.src_uri} links to {link['path']}, which is no file of the repository."
            )
        tree = f"{config.repo_url.rstrip('/')}/{'tree' if target.is_dir() else 'blob'}/v{__version__}"
        return f"]({tree}/{target.relative_to(repository).as_posix()}"

    return OUTSIDE.sub(address, markdown)
