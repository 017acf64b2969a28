"""The HTML of a page: headings, explanations and questions are in it; scripts only fill in data."""

from collections.abc import Sequence
from html import escape

import msgspec

from streams.dashboard.figures import Figure, Page


def html(
    page: Page, *, pages: Sequence[Page], pipeline: str, pipelines: Sequence[str], token: str
) -> str:
    """The whole document, with links to all ``pages``."""
    links = "".join(_link(one, page, pipeline) for one in pages)
    figures = "".join(_figure(figure) for figure in page.figures)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="tidemill-token" content="{escape(token)}">
<meta name="color-scheme" content="light dark">
<title>{escape(page.title)} · {escape(pipeline)} · Tidemill</title>
<link rel="icon" href="/static/mill.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/app.css">
<script src="/static/theme.js"></script>
<script type="module" src="/static/app.js"></script>
</head>
<body data-page="{escape(page.name)}" data-pipeline="{escape(pipeline)}">
<a class="skip" href="#main">Skip to the page</a>
<header class="side">
<a class="brand" href="/?pipeline={escape(pipeline)}">
<img src="/static/mill.svg" alt="" width="28" height="28">Tidemill</a>
<nav aria-label="Pages"><ul>{links}</ul></nav>
<div class="tools">
{_chooser(pipeline, pipelines)}
<button type="button" id="theme" class="quiet">Theme: system</button>
</div>
</header>
<main id="main" tabindex="-1">
<div class="head"><div><h1>{escape(page.title)}</h1><p class="lead">{escape(page.about)}</p></div>
<p class="pulse" id="pulse" role="status">connecting</p></div>
<div id="notices" role="alert"></div><div id="said" role="status"></div>
{page.body}
<div class="figures">{figures}</div>
</main>
</body>
</html>
"""


def _link(page: Page, present: Page, pipeline: str) -> str:
    current = ' aria-current="page"' if page is present else ""
    return f'<li><a href="/{page.name}?pipeline={escape(pipeline)}"{current}>{page.title}</a></li>'


def _chooser(pipeline: str, pipelines: Sequence[str]) -> str:
    if len(pipelines) < 2:
        return f'<p class="one-pipeline"><span>Pipeline</span> {escape(pipeline)}</p>'
    options = "".join(
        f"<option{' selected' if name == pipeline else ''}>{escape(name)}</option>"
        for name in pipelines
    )
    return (
        '<form method="get"><label>Pipeline <select name="pipeline" id="choose">'
        f"{options}</select></label><noscript><button>Show</button></noscript></form>"
    )


def _figure(figure: Figure) -> str:
    name = escape(figure.name)
    drawn = escape(msgspec.json.encode(figure.drawn).decode())
    about = f'<p class="about">{escape(figure.about)}</p>' if figure.about else ""
    sql = (
        f'<h3>SQL</h3><pre tabindex="0"><code>{escape(figure.sql)}</code></pre>'
        f'<p><button type="button" class="quiet copy">Copy SQL</button> '
        f'<a href="/sql?q={escape(_quoted(figure.sql))}">Open in the editor</a></p>'
        if figure.sql
        else "<p>This is not in SQL: it comes from Kafka's offsets and from the processes.</p>"
    )
    width = " wide" if figure.wide else ""
    return f"""<section class="figure{width}" id="figure-{name}" \
aria-labelledby="title-{name}" data-kind="{figure.kind}" data-empty="{escape(figure.empty)}" \
data-drawn="{drawn}">
<h2 id="title-{name}">{escape(figure.title)}</h2>{about}
<div class="plot" aria-busy="true"></div>
<details class="how"><summary>How to ask this<span class="hidden"> about: \
{escape(figure.title)}</span></summary>
{sql}
<h3>Command</h3><pre tabindex="0"><code>{escape(figure.shown_command)}</code></pre>
<p><button type="button" class="quiet copy">Copy command</button></p>
</details>
</section>"""


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text)
