"""The page of `evaluations.item_page`: one Jinja template with its style and script."""

from __future__ import annotations

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Worst and best items</title>
<style>
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1f2937; --faint: #6b7280; --line: #e5e7eb; --frame: #d1d5db;
  --pass: #15803d; --fail: #b91c1c; --accent: #1d4ed8; --tint: #eff6ff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f172a; --card: #1e293b; --text: #e2e8f0; --faint: #94a3b8; --line: #334155; --frame: #475569;
    --pass: #4ade80; --fail: #f87171; --accent: #93c5fd; --tint: #24375a;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
header, main, .bar > div { max-width: 78rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.2rem; padding-bottom: 1rem; }
h1 { margin: 0; font-size: 1.8rem; line-height: 1.2; letter-spacing: -0.02em; }
header p { margin: .4rem 0 0; color: var(--faint); max-width: 50rem; }
.bar {
  position: sticky; top: 0; z-index: 1; background: var(--page); border-block: 1px solid var(--line);
}
.bar > div { display: flex; flex-wrap: wrap; gap: .6rem .9rem; align-items: center; padding-block: .65rem; }
label { color: var(--faint); font-size: .85rem; }
select, input[type=search], .choice {
  font: inherit; font-size: .9rem; color: var(--text); background: var(--card);
  border: 1px solid var(--frame); border-radius: 8px;
}
select, input[type=search] { padding: .32rem .6rem; }
select { margin-left: .35rem; }
input[type=search] { flex: 1 1 12rem; min-width: 9rem; }
.choice { display: inline-flex; margin: 0; padding: 0; overflow: hidden; }
.choice legend { position: absolute; clip-path: inset(50%); }
.choice label { padding: .32rem .7rem; cursor: pointer; color: var(--text); }
.choice label + label { border-left: 1px solid var(--frame); }
.choice input { position: absolute; opacity: 0; pointer-events: none; }
.choice label:has(:checked) { background: var(--accent); color: var(--card); font-weight: 600; }
.choice label:has(:focus-visible), select:focus-visible, input:focus-visible {
  outline: 2px solid var(--accent); outline-offset: -2px;
}
#count { color: var(--faint); font-size: .85rem; font-variant-numeric: tabular-nums; }
main { padding-block: 1.1rem 4rem; }
article {
  display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 1rem 1.8rem; padding: 1.1rem 1.3rem;
  margin-bottom: .9rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
}
@media (max-width: 62rem) { article { grid-template-columns: minmax(0, 1fr); } }
h2 { margin: .15rem 0 0; font-size: 1.08rem; line-height: 1.35; overflow-wrap: anywhere; }
.about { display: flex; flex-wrap: wrap; gap: .2rem .8rem; color: var(--faint); font-size: .82rem; }
.about b { font-weight: 600; }
.pass { color: var(--pass); }
.fail { color: var(--fail); }
.caption { margin: .25rem 0 0; color: var(--faint); font-size: .9rem; overflow-wrap: anywhere; }
.caption:empty { display: none; }
.pictures { display: flex; gap: .6rem; margin-top: .8rem; }
figure { margin: 0; min-width: 0; }
figcaption { margin-top: .2rem; color: var(--faint); font-size: .78rem; }
figure img {
  display: block; max-width: 100%; height: auto; border-radius: 4px; outline: 1px solid var(--frame);
  background: var(--line);
}
figure.generated img { outline: 2px solid var(--accent); }
figure.generated figcaption { color: var(--accent); font-weight: 600; }
img.pixels { image-rendering: pixelated; }
table { border-collapse: collapse; align-self: start; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .14rem .5rem; text-align: right; white-space: nowrap; line-height: 1.4; }
th { font-weight: 400; text-align: left; }
thead th { color: var(--faint); font-size: .76rem; text-align: right; border-bottom: 1px solid var(--line); }
td.copy, td.place { color: var(--faint); }
tr.chosen > * { background: var(--tint); font-weight: 600; }
tr.chosen > :first-child { border-radius: 6px 0 0 6px; }
tr.chosen > :last-child { border-radius: 0 6px 6px 0; }
.track {
  display: inline-block; position: relative; width: 3.6rem; height: 4px; margin-left: .5rem;
  vertical-align: middle; border-radius: 2px; background: var(--line);
}
tr.chosen .track { background: var(--frame); }
.track i {
  position: absolute; top: -3px; left: calc(var(--at) * (100% - 10px)); width: 10px; height: 10px;
  border-radius: 50%; background: color-mix(in oklab, var(--pass) calc(var(--at) * 100%), var(--fail));
}
.empty { color: var(--faint); text-align: center; padding: 3rem 0; }
@media print { .bar { position: static; } article { break-inside: avoid; } }
</style>
</head>
<body>
<header>
<h1>Worst and best items</h1>
<p>{{ cards|length }} of {{ "{:,}".format(num_items) }} generated images: for each metric the {{ per_end }}
worst and the {{ per_end }} best. The place counts from the worst among all images; the dot shows it from
worst (left) to best (right); ↓ marks metrics where lower is better.
{% if has_copies %}“Copy” is the number that the unedited source gets.{% endif %}</p>
<noscript><p><b>Sorting, filtering and the pictures need JavaScript.</b></p></noscript>
</header>
<div class="bar"><div>
<label>Sort by<select id="metric">
{% for name, lower in metrics.items() %}
<option value="{{ name }}">{{ name }} {{ "↓" if lower else "↑" }}</option>
{% endfor %}
</select></label>
<fieldset class="choice"><legend>Order</legend>
<label><input type="radio" name="order" value="worst" checked>Worst first</label>
<label><input type="radio" name="order" value="best">Best first</label>
</fieldset>
{% if protocols|length > 1 %}
<fieldset class="choice"><legend>Protocol</legend>
<label><input type="radio" name="protocol" value="" checked>All</label>
{% for protocol in protocols %}
<label><input type="radio" name="protocol" value="{{ protocol }}">{{ protocol }}</label>
{% endfor %}
</fieldset>
{% endif %}
<input type="search" id="search" aria-label="Search"
placeholder="Search instruction, caption, session, verdict">
<span id="count" role="status"></span>
</div></div>
<main>
{% for card in cards %}
<article data-protocol="{{ card.protocol }}" data-values="{{ card["values"]|tojson|forceescape }}">
<div>
<div class="about">
{% if card.session is not none %}<span>session <b>{{ card.session }}</b></span>{% endif %}
{% if card.turn is not none %}<span>turn <b>{{ card.turn }}</b></span>{% endif %}
<span>{{ card.protocol }}</span>
{% if card.passed is true %}<b class="pass">✓ passed</b>
{% elif card.passed is false %}<b class="fail">✗ failed{% if card.failed_checks %}:
{{ card.failed_checks|join(", ")|replace("_", " ") }}{% endif %}</b>
{% endif %}
</div>
<h2>{{ card.instruction }}</h2>
<p class="caption">{{ card.caption }}</p>
<div class="pictures">
{% for picture in card.pictures %}
{% set data = pictures[picture.number] %}
<figure class="{{ picture.label }}">
<img data-picture="{{ picture.number }}" width="{{ data.width }}" height="{{ data.height }}" loading="lazy"
{% if data.small %}class="pixels" {% endif %}alt="{{ picture.label }}" title="{{ picture.path }}">
<figcaption>{{ picture.label }}</figcaption></figure>
{% endfor %}
</div>
</div>
<table>
<thead><tr><th></th><th>generated</th>{% if has_copies %}<th>copy</th>{% endif %}<th>place</th></tr></thead>
<tbody>
{% for name, value in card["values"].items() %}
<tr data-metric="{{ name }}"><th scope="row">{{ name }}{% if metrics.get(name) %} ↓{% endif %}</th>
<td>{{ format_number(value) }}</td>
{% if has_copies %}<td class="copy">{{ format_number(card.copied.get(name)) }}</td>{% endif %}
<td class="place">{% if name in card.places %}{% set place = card.places[name] %}
{{ place.number }} / {{ place.count }}
<span class="track"><i style="--at: {{ place.share }}"></i></span>
{% endif %}</td></tr>
{% endfor %}
</tbody></table>
</article>
{% endfor %}
<p class="empty" hidden>No item fits.</p>
</main>
<script id="pictures" type="application/json">{{ pictures|map(attribute="url")|list|tojson }}</script>
<script>
"use strict";
const lowerIsBetter = {{ metrics|tojson }};
const main = document.querySelector("main");
const empty = document.querySelector(".empty");
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const cards = [...document.querySelectorAll("article")].map((node) => ({
  node,
  values: JSON.parse(node.dataset.values),
  text: (node.querySelector("h2").textContent + " " + node.querySelector(".caption").textContent + " " +
         node.querySelector(".about").textContent).toLowerCase(),
}));
for (const image of document.querySelectorAll("img[data-picture]")) {
  image.src = pictures[image.dataset.picture];
}
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`)?.value ?? "";

function show() {
  const metric = document.getElementById("metric").value;
  const sign = lowerIsBetter[metric] === (chosen("order") === "worst") ? -1 : 1;
  const words = document.getElementById("search").value.toLowerCase().split(/\\s+/);
  const protocol = chosen("protocol");
  const undefinedLast = (value) => value ?? sign * Infinity;
  cards.sort((a, b) => sign * (undefinedLast(a.values[metric]) - undefinedLast(b.values[metric])) || 0);
  let count = 0;
  for (const card of cards) {
    const fits = (!protocol || card.node.dataset.protocol === protocol) &&
      words.every((word) => card.text.includes(word));
    card.node.hidden = !fits;
    count += fits;
    for (const row of card.node.querySelectorAll("tr[data-metric]")) {
      row.classList.toggle("chosen", row.dataset.metric === metric);
    }
  }
  main.append(...cards.map((card) => card.node), empty);
  empty.hidden = count > 0;
  document.getElementById("count").textContent = `${count} shown`;
}
document.querySelector(".bar").addEventListener("input", show);
show();
</script>
</body>
</html>
"""
