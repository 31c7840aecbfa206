"""A hook of MkDocs: the decisions join the navigation by themselves, one page each."""

from pathlib import Path


def on_config(config):
    """Add the pages of docs/decisions, in their order."""
    pages = sorted(Path(config.docs_dir, "decisions").glob("*.md"))
    config.nav.append({"Decisions": [f"decisions/{page.name}" for page in pages]})
    return config
