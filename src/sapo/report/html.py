"""Pages as one HTML file that needs nothing else: the Markdown of every block, in a template, with figures."""

from __future__ import annotations

from itertools import count

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from sapo.core.untrusted import one_line, plain
from sapo.report.blocks import Block, Page, Plot, Table
from sapo.report.markdown import block_markdown
from sapo.report.plots import to_svg

# Rows from which a table is folded.
_LONG = 30


def to_html(page: Page) -> str:
    """Return a page as an HTML document, always the same for the same page."""
    environment = Environment(
        loader=PackageLoader("sapo.report", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    # Markup in a text stays text: html=False, and nothing becomes a link.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    number = count(1)

    def shown(block: Block) -> Markup:
        if isinstance(block, Plot):
            return Markup(to_svg(block, f"figure {next(number)}"))
        content = Markup(markdown.render(block_markdown(block)))
        if not isinstance(block, Table):
            return content
        if len(block.rows) < _LONG:
            return Markup('<div class="table">{}</div>').format(content)
        folded = '<details><summary>{}: {} rows</summary><div class="table">{}</div></details>'
        return Markup(folded).format(one_line(plain(block.title)) or "Table", len(block.rows), content)

    return environment.get_template("report.html").render(
        title=one_line(plain(page.title)),
        sections=page.parts,
        verdict=bool(page.verdict),
        shown=shown,
        is_plot=lambda block: isinstance(block, Plot),
        line=lambda text: one_line(plain(text)),
    )
