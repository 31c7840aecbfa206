"""Hooks of MkDocs: the decisions join the navigation by themselves, and links out of the docs become paths."""

import re
from pathlib import Path


def on_config(config):
    """Add the pages of docs/decisions, in their order."""
    pages = sorted(Path(config.docs_dir, "decisions").glob("*.md"))
    config.nav.append({"Decisions": [f"decisions/{page.name}" for page in pages]})
    return config


def on_page_markdown(markdown, page, config, files):
    """Write a link to a file of the repository, which the site does not have, as its text and path."""
    docs = Path(config.docs_dir)
    here = docs / Path(page.file.src_uri).parent

    def written_out(link):
        target = (here / link[2]).resolve()
        if target.is_relative_to(docs) or not target.exists():
            return link[0]
        return f"{link[1]} (`{target.relative_to(docs.parent)}`)"

    return re.sub(r"\[([^\]]*)\]\((\.\./[^)#]*)\)", written_out, markdown)
