"""The page of `evaluations.report`: one Jinja template with its style."""

from __future__ import annotations

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root {
  --page: #f6f7f9; --card: #ffffff; --text: #1f2937; --faint: #6b7280; --line: #e5e7eb;
  --pass: #15803d; --fail: #b91c1c; --marked: #eff6ff; --frame: #d1d5db;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f172a; --card: #1e293b; --text: #e2e8f0; --faint: #94a3b8; --line: #334155;
    --pass: #4ade80; --fail: #f87171; --marked: #24375a; --frame: #475569;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.02em; }
.subtitle { margin: .4rem 0 0; color: var(--faint); }
section {
  margin-top: 1.5rem; padding: 1.4rem 1.6rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px;
}
h2 { margin: 0 0 .8rem; font-size: 1.15rem; letter-spacing: -0.01em; }
p { margin: 0 0 .8rem; max-width: 46rem; }
p:last-child { margin-bottom: 0; }
.note { color: var(--faint); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
table.numbers { width: 100%; }
th, td { padding: .45rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; font-size: .82rem; }
tbody tr:last-child td { border-bottom: 0; }
.numbers th + th, td.number { text-align: right; }
tr.marked td { background: var(--marked); font-weight: 600; }
img { display: block; height: auto; }
img.pixels { image-rendering: pixelated; }
.edits img, figure img { outline: 1px solid var(--frame); border-radius: 3px; max-width: none; }
.curves img { width: 100%; max-width: 60rem; height: auto; }
.edits { width: 100%; }
.edits td { padding: .4rem; vertical-align: middle; }
.edits th { padding: .2rem .4rem; }
.edits td.instruction { white-space: normal; width: 99%; min-width: 11rem; padding-inline: 1rem; }
.edits .note { display: block; }
.verdict { font-weight: 600; font-size: .85rem; }
.verdict.pass { color: var(--pass); }
.verdict.fail { color: var(--fail); }
.output.pass img { outline: 2px solid var(--pass); }
.output.fail img { outline: 2px solid var(--fail); }
.pairs { display: flex; flex-wrap: wrap; gap: 1.1rem; }
figure { margin: 0; }
figure div { display: flex; gap: 4px; }
figcaption { margin-top: .25rem; color: var(--faint); font-size: .8rem; max-width: 17rem; }
@media print { body { background: none; max-width: none; } section { break-inside: avoid; } }
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
{% if subtitle %}<p class="subtitle">{{ subtitle }}</p>{% endif %}
</header>
{% macro picture(image, label) %}
<img{% if image.small %} class="pixels"{% endif %} width="{{ image.width }}" alt="{{ label }}"
src="{{ image.url }}">
{%- endmacro %}
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% if section.note %}<p class="note">{{ section.note }}</p>{% endif %}
{% if section.kind == "TextSection" %}
{% for paragraph in section.paragraphs %}<p>{{ paragraph }}</p>
{% endfor %}
{% elif section.kind == "TableSection" %}
<div class="scroll"><table class="numbers">
<thead><tr>{% for column in section.columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in section.rows %}
<tr{% if row.marked %} class="marked"{% endif %}>
{%- for cell in row.cells %}<td{% if cell.number %} class="number"{% endif %}>{{ cell.text }}</td>{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% elif section.kind == "CurveSection" %}
<picture class="curves">
<source media="(prefers-color-scheme: dark)" srcset="{{ section.dark }}">
<img src="{{ section.light }}" alt="{{ section.alt }}">
</picture>
{% elif section.kind == "EditGridSection" %}
<div class="scroll"><table class="edits">
<thead><tr><th>source</th><th>mask</th><th>instruction</th><th>output</th>
{%- if section.with_target %}<th>target</th>{% endif %}</tr></thead>
<tbody>
{% for item in section["items"] %}
<tr>
<td>{{ picture(item.source, "source") }}</td>
<td>{{ picture(item.mask, "mask") }}</td>
<td class="instruction">{{ item.instruction }}
{% if item.note %}<span class="note">{{ item.note }}</span>{% endif %}
{% if item.verdict %}
<div class="verdict {{ item.verdict }}">{{ "✓ passed" if item.verdict == "pass" else "✗ failed" }}</div>
{% endif %}</td>
<td class="output {{ item.verdict }}">{{ picture(item.output, "output") }}</td>
{% if section.with_target %}
<td>{% if item.target %}{{ picture(item.target, "target") }}{% endif %}</td>
{% endif %}
</tr>
{% endfor %}
</tbody></table></div>
{% elif section.kind == "ImagePairsSection" %}
<p class="note">{{ section.labels[0] }} (left), {{ section.labels[1] }} (right)</p>
<div class="pairs">
{% for pair in section.pairs %}
<figure><div>{{ picture(pair.left, section.labels[0]) }}
{{ picture(pair.right, section.labels[1]) }}</div>
{% if pair.caption %}<figcaption>{{ pair.caption }}</figcaption>{% endif %}</figure>
{% endfor %}
</div>
{% endif %}
</section>
{% endfor %}
</body>
</html>
"""
