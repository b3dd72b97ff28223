"""The page's one style. Its hash is in the page's policy, so that no other style counts: elements have classes only."""

STYLE = """
:root { --page: #f6f5f2; --card: #fff; --text: #1f2328; --faint: #5c6169; --border: #dcdad4; --grid: #e6e4df;
  --axis: #8a8f96; --band: #d5e0f7; --line: #2f5fd0; --reference: #a25a00; --swap: #6b4fa0; --new: #23773f;
  --old: #c03f2a; --good: #23773f; --bad: #b3351f; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #16181b; --card: #22252a; --text: #e8e9eb;
  --faint: #a3a9b1; --border: #3a3f46; --grid: #33373d; --axis: #7b828b; --band: #2b3c66; --line: #8fb0ff;
  --reference: #f0b35a; --swap: #bda6f0; --new: #5cc283; --old: #f2826d; --good: #5cc283; --bad: #f2826d; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { margin: 0 auto; max-width: 1120px; padding: clamp(14px, 3vw, 40px); overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 26px; line-height: 1.25; font-weight: 680; }
h2 { margin: 0 0 10px; font-size: 19px; font-weight: 660; }
h3 { margin: 0; font-size: 16px; font-weight: 640; }
p { margin: 0 0 12px; max-width: 78ch; }
header p, small, .empty { color: var(--faint); }
header p { margin: 4px 0 20px; }
small { display: block; font-size: 12.5px; font-weight: 400; line-height: 1.35; }
section { margin-top: 36px; padding-top: 24px; border-top: 1px solid var(--border); }
code { font: 0.94em ui-monospace, monospace; }
.card, .tiles > div, details { background: var(--card); border: 1px solid var(--border); border-radius: 10px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 205px), 1fr)); gap: 12px; margin: 0; }
.tiles > div { padding: 12px 14px; }
.tiles dt { color: var(--faint); font-size: 13px; }
.tiles dd { margin: 0; }
.tiles b { display: block; margin: 1px 0 3px; font-size: 24px; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tiles b small { display: inline; }
.card { padding: 12px; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 12px;
  margin: 12px 0; }
.chart { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; overflow: visible; }
.chart text { font-variant-numeric: tabular-nums; }
.on-narrow { display: none; }
.r-text { fill: var(--text); } .r-faint { fill: var(--faint); } .r-band { fill: var(--band); }
.r-line { fill: var(--line); } .r-swap { fill: var(--swap); } .r-new { fill: var(--new); } .r-old { fill: var(--old); }
.s-grid { stroke: var(--grid); } .s-axis { stroke: var(--axis); } .s-band { stroke: var(--band); }
.s-line { stroke: var(--line); } .s-reference { stroke: var(--reference); } .s-swap { stroke: var(--swap); }
.s-swap-line { stroke: var(--swap); opacity: 0.5; }
.s-whisker { stroke: var(--text); }
.hollow { fill: var(--card); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 12px; padding: 0; list-style: none;
  color: var(--faint); font-size: 13px; }
.legend i { display: inline-block; width: 22px; height: 0; margin-right: 7px; vertical-align: middle; }
.legend .line { border-top: 3px solid var(--line); }
.legend .band { height: 12px; background: var(--band); }
.legend .reference { border-top: 2px dashed var(--reference); }
.legend .swap, .legend .again { width: 0; border: 6px solid transparent; border-bottom: 0;
  border-top: 9px solid var(--swap); }
.legend .again { position: relative; }
.legend .again::after { content: ""; position: absolute; left: -3px; top: -7.5px; border: 3px solid transparent;
  border-bottom: 0; border-top: 5px solid var(--page); }
.wide { overflow-x: auto; margin: 0 0 12px; }
table { border-collapse: collapse; min-width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
caption { padding: 8px 0 6px; color: var(--faint); font-size: 13px; text-align: left; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--border); overflow-wrap: break-word; text-align: left;
  vertical-align: top; }
thead th { color: var(--faint); font-size: 12.5px; font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
.n, td time { white-space: nowrap; }
.n { text-align: right; }
.reason { min-width: 16em; margin: 0; }
th:first-child, td:first-child { padding-left: 2px; }
details { margin: 0 0 10px; padding: 0 14px; }
summary { padding: 11px 0; cursor: pointer; }
summary span { margin-left: 6px; color: var(--faint); }
details .state { padding: 1px 9px; border: 1px solid currentColor; border-radius: 99px; font-size: 12.5px; }
.state.live, .state.ready, .passed { color: var(--good); } .state.rejected, .failed { color: var(--bad); }
.passed, .failed { font-weight: 600; white-space: nowrap; }
.confusions { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 12px; }
.confusions p { margin: 0 0 4px; color: var(--faint); font-size: 13px; }
.pair { display: grid; grid-template-columns: 1fr auto 1fr; gap: 8px; padding-top: 10px; }
.pair figure { margin: 0; min-width: 0; font-size: 12.5px; line-height: 1.35; }
.pair figcaption { padding-top: 4px; }
.pair img, .no-photo { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px;
  background: var(--page); }
.no-photo { display: grid; place-items: center; border: 1px dashed var(--axis); color: var(--faint); }
.arrow { align-self: start; padding-top: 40px; color: var(--faint); font-size: 18px; }
.words { margin: 0; max-width: 78ch; } .words dt { font-weight: 640; } .words dd { margin: 0 0 8px; }
:focus-visible { outline: 2px solid var(--line); outline-offset: 2px; }
@media screen and (max-width: 720px) { .on-wide { display: none; } .on-narrow { display: block; max-width: 440px; } }
@media (max-width: 680px) { section { margin-top: 26px; padding-top: 18px; } .arrow { padding-top: 30px; }
  .tiles { grid-template-columns: repeat(auto-fill, minmax(min(100%, 140px), 1fr)); } .tiles b { font-size: 21px; } }
@media print { body { font-size: 11pt; } main { max-width: none; padding: 0; }
  .card, .tiles > div, tr, article { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .wide { overflow: visible; }
  details:has(.state)::details-content { content-visibility: visible; height: auto; } }
"""
