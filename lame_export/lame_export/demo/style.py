"""Holds the style sheet of the demo's page, which supports light and dark mode."""

from __future__ import annotations

STYLE = """
:root { --ink: #1d2129; --soft: #667085; --line: #e3e6eb; --ground: #fff; --card: #f7f8fa;
  --right: #12805c; --wrong: #b42318; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #98a2b3; --line: #333a45; --ground: #14171c; --card: #1d2129;
    --right: #4cc38a; --wrong: #ff8a7a; }
  .plot { background: #fff; border-radius: 8px; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  margin: 0 auto; max-width: 1060px; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 40px 0 10px; }
p { color: var(--soft); margin: 4px 0 12px; max-width: 95ch; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.query { display: flex; align-items: center; gap: 18px; padding: 10px 0; flex-wrap: wrap;
  border-bottom: 1px solid var(--line); }
.ask { width: 250px; flex: none; }
.ask small { color: var(--soft); display: block; }
.hits { display: flex; gap: 10px; flex-wrap: wrap; }
.hit { border: 2px solid var(--line); border-radius: 8px; padding: 6px; background: var(--card);
  text-align: center; min-width: 64px; font-size: 13px; }
.hit .mark { display: block; font-size: 12px; color: var(--soft); }
.hit.right { border-color: var(--right); }
.hit.right .mark { color: var(--right); }
.hit.wrong:first-child { border-color: var(--wrong); }
.hit.wrong:first-child .mark { color: var(--wrong); }
img.p { height: 40px; image-rendering: pixelated; display: block; margin: 0 auto 3px;
  border-radius: 3px; }
.ask img.p { margin-left: 0; }
.plot svg { width: 100%; height: auto; }
.ok { color: var(--right); }
.bad { color: var(--wrong); }
"""
