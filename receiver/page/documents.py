"""The documentation, as pages beside the page: rendered once, when it is first asked for."""

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

_FOLDER = Path(__file__).resolve().parents[2] / "docs"
NAMES = frozenset(path.stem for path in _FOLDER.glob("*.md"))
"""The documents there are, by the names of their pages."""
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_NOT_OF_A_WORD = re.compile(r"[^\w\- ]")


@cache
def render(name: str) -> tuple[str, str]:
    """Return a document's title, and its HTML: links lead to the pages beside it, headings have their anchors."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(_COMMENT.sub("", (_FOLDER / f"{name}.md").read_text(encoding="utf-8")))
    title = name
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            text = _text(tokens[at + 1])
            token.attrSet("id", anchor(text))
            title = text if token.tag == "h1" else title
        if token.attrs.pop("style", None) == "text-align:right":  # the page's policy forbids a style of its own
            token.attrSet("class", "right")
        if token.children:
            token.children = _with_links_beside(token.children)
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    # What may be wider than a phone is scrolled, also with the keyboard.
    html = html.replace("<pre>", '<pre tabindex="0">').replace(
        "<table>", f'<div class="wide" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
    )
    return title, html.replace("</table>", "</table></div>")


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub has it."""
    return _NOT_OF_A_WORD.sub("", heading.strip().lower()).replace(" ", "-")


def _text(inline: Token) -> str:
    return "".join(child.content for child in inline.children or ())


def _with_links_beside(tokens: Sequence[Token]) -> list[Token]:
    """Let links lead to the pages beside this one; what is not served is no link."""
    kept, leads = [], True
    for token in tokens:
        if token.type == "link_open":
            href = _beside(str(token.attrGet("href")))
            leads = href is not None
            token.attrSet("href", href or "")
        if leads or token.type not in {"link_open", "link_close"}:
            kept.append(token)
    return kept


def _beside(href: str) -> str | None:
    """Return where a link leads here; None: nowhere."""
    parts = urlsplit(href)
    if parts.scheme or not parts.path:
        return href
    stem = Path(parts.path).name.removesuffix(".md")
    if not parts.path.endswith(".md") or stem not in NAMES:
        return None
    return stem + (f"#{parts.fragment}" if parts.fragment else "")
