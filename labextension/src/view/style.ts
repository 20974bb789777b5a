/**
 * The view's own style sheet, as text: it travels inside the one module.
 *
 * JupyterLab's variables come first, so that a theme is followed live; the fallbacks serve pages
 * that have none. Such a page says nothing of its theme either: there the reader's system does.
 */

import { KINDS } from './kinds.js';

const LIGHT_GROUND = `
  --ctrt-bg: var(--jp-layout-color0, #fff);
  --ctrt-bg2: var(--jp-layout-color1, #f6f7f9);
  --ctrt-bg3: var(--jp-layout-color2, #eceff3);
  --ctrt-fg: var(--jp-content-font-color1, #1b1f24);
  --ctrt-line: var(--jp-border-color1, #bdc3cb);
  --ctrt-focus: var(--jp-brand-color1, #1565c0);
  --ctrt-added-c: #0b6e3b; --ctrt-changed-c: #8a5a00; --ctrt-removed-c: #b3261e;
  --ctrt-muted: #565e69; --ctrt-on-kind: #fff;`;

const DARK_GROUND = `
  --ctrt-bg: var(--jp-layout-color0, #111417);
  --ctrt-bg2: var(--jp-layout-color1, #1b1f24);
  --ctrt-bg3: var(--jp-layout-color2, #2a3038);
  --ctrt-fg: var(--jp-content-font-color1, #e8eaed);
  --ctrt-line: var(--jp-border-color1, #565e69);
  --ctrt-focus: var(--jp-brand-color1, #64b5f6);
  --ctrt-added-c: #4fd69a; --ctrt-changed-c: #f0b545; --ctrt-removed-c: #ff9a80;
  --ctrt-muted: #a9b1bb; --ctrt-on-kind: #111417;`;

function ground(variables: string, theme: 'light' | 'dark'): string {
  const kinds = Array.from(KINDS, ([kind, colours]) => `--ctrt-c-${kind}: ${colours[theme]};`);
  return variables + kinds.join('');
}

const DARK = ground(DARK_GROUND, 'dark');

const KIND_RULES = Array.from(
  KINDS.keys(),
  (kind) => `.ctrt-view .ctrt-k-${kind} { --k: var(--ctrt-c-${kind}); }`,
).join('\n');

export const STYLE = `
.ctrt-view { ${ground(LIGHT_GROUND, 'light')}
  --k: var(--ctrt-muted);
  --ctrt-mono: var(--jp-code-font-family, ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace);
  background: var(--ctrt-bg); color: var(--ctrt-fg); color-scheme: light;
  font: 13px/1.4 var(--jp-ui-font-family, system-ui, -apple-system, 'Segoe UI', sans-serif);
  padding: 8px 10px 10px; text-align: left;
}
body[data-jp-theme-light='false'] .ctrt-view { ${DARK} color-scheme: dark; }
@media (prefers-color-scheme: dark) {
  body:not([data-jp-theme-light]) .ctrt-view { ${DARK} color-scheme: dark; }
}
${KIND_RULES}
.ctrt-view .ctrt-added { --d: var(--ctrt-added-c); }
.ctrt-view .ctrt-changed { --d: var(--ctrt-changed-c); }
.ctrt-view .ctrt-removed { --d: var(--ctrt-removed-c); }
.ctrt-view, .ctrt-view * { box-sizing: border-box; }
.ctrt-view [hidden] { display: none !important; }
.ctrt-view :focus { outline: none; }
.ctrt-view :focus-visible { outline: 2px solid var(--ctrt-focus); outline-offset: 1px; }
.ctrt-view .ctrt-dim { opacity: 0.35; }
.ctrt-view .ctrt-say { color: var(--ctrt-muted); font-style: italic; margin: 8px 0; }
.ctrt-view button {
  background: var(--ctrt-bg2); border: 1px solid var(--ctrt-line); border-radius: 4px;
  color: inherit; cursor: pointer; font: inherit; line-height: 1; padding: 5px 9px;
}
.ctrt-view button:hover, .ctrt-view button[aria-expanded='true'] { background: var(--ctrt-bg3); }

.ctrt-view .ctrt-bar { align-items: center; display: flex; flex-wrap: wrap; gap: 6px 10px; margin-bottom: 8px; }
.ctrt-view .ctrt-bar h3 { font-size: 15px; font-weight: 600; margin: 0 auto 0 0; }
.ctrt-view .ctrt-bar input {
  background: var(--ctrt-bg); border: 1px solid var(--ctrt-line); border-radius: 4px;
  color: inherit; font: inherit; padding: 3px 8px; width: 15em;
}
.ctrt-view .ctrt-bar input::placeholder { color: var(--ctrt-muted); opacity: 1; }
.ctrt-view .ctrt-status { color: var(--ctrt-muted); font-variant-numeric: tabular-nums; }

.ctrt-view .ctrt-legend .ctrt-keys { flex-basis: 100%; }
.ctrt-view .ctrt-keys ul { display: flex; flex-wrap: wrap; gap: 2px 18px; }

.ctrt-view .ctrt-main { position: relative; align-items: flex-start; display: flex; flex-wrap: wrap; gap: 12px; }
.ctrt-view .ctrt-graph { flex: 0 1 var(--ctrt-width); max-width: 100%; overflow-x: auto; }
/* A shade at a side where the drawing goes on; covers that scroll with the drawing hide it at its ends. */
.ctrt-view .ctrt-graph {
  --shade: color-mix(in srgb, var(--ctrt-fg) 25%, transparent);
  background:
    linear-gradient(to right, var(--ctrt-bg) 50%, transparent) 0 0 / 24px 100% no-repeat local,
    linear-gradient(to left, var(--ctrt-bg) 50%, transparent) 100% 0 / 24px 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) 0 0 / 10px 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) 100% 0 / 10px 100% no-repeat scroll;
}
.ctrt-view .ctrt-graph > svg { display: block; height: auto; max-width: var(--ctrt-width); min-width: var(--ctrt-least); width: 100%; }
.ctrt-view .ctrt-list > .ctrt-graph { display: none; }
.ctrt-view .ctrt-side { align-items: flex-start; display: flex; flex: 1 1 460px; flex-wrap: wrap; gap: 12px; max-width: 100%; min-width: 0; }

.ctrt-view .ctrt-table { border: 1px solid var(--ctrt-line); border-radius: 6px; flex: 2 1 380px; max-height: 420px; max-width: 100%; min-width: 0; overflow: auto; }
.ctrt-view .ctrt-list .ctrt-table { max-height: max(420px, 75vh); }
.ctrt-view .ctrt-list td { max-width: 36em; white-space: normal; }
.ctrt-view table { color: inherit; border-collapse: separate; border-spacing: 0; font-size: 13px; margin: 0; table-layout: auto; width: 100%; }
.ctrt-view th, .ctrt-view td { border: 0; max-width: 20em; overflow: hidden; padding: 4px 8px; text-align: left; text-overflow: ellipsis; vertical-align: middle; white-space: nowrap; }
.ctrt-view th:first-child, .ctrt-view td:first-child { max-width: 26em; }
.ctrt-view th { background: var(--ctrt-bg2); border-bottom: 1px solid var(--ctrt-line); color: var(--ctrt-muted); font-size: 12px; font-weight: 600; position: sticky; top: 0; z-index: 1; }
.ctrt-view .ctrt-line { background: var(--ctrt-bg); cursor: pointer; }
.ctrt-view .ctrt-line:hover td { background: var(--ctrt-bg2); }
.ctrt-view .ctrt-line[aria-selected='true'] td { background: color-mix(in srgb, var(--ctrt-focus) 16%, var(--ctrt-bg)); }
.ctrt-view .ctrt-line[aria-selected='true'] td:first-child { box-shadow: inset 3px 0 var(--ctrt-focus); }
.ctrt-view .ctrt-line:focus-visible { outline-offset: -2px; }
.ctrt-view .ctrt-tree { align-items: center; display: flex; gap: 6px; padding-left: calc(var(--ctrt-level) * 18px); }
.ctrt-view .ctrt-fold { color: var(--ctrt-muted); flex: none; text-align: center; width: 12px; }
.ctrt-view [aria-expanded='true'] .ctrt-fold { transform: rotate(90deg); }
.ctrt-view .ctrt-name { font-weight: 500; overflow: hidden; text-overflow: ellipsis; }
.ctrt-view .ctrt-count { background: var(--ctrt-bg3); border-radius: 9px; flex: none; font-size: 11px; padding: 1px 7px; }
.ctrt-view .ctrt-badge { align-items: center; background: var(--k); border-radius: 50%; color: var(--ctrt-on-kind); display: inline-flex; flex: none; font-size: 10px; font-weight: 700; height: 17px; justify-content: center; line-height: 1; width: 17px; }
.ctrt-view .ctrt-mark { color: var(--d); flex: none; fill: var(--d); font-family: var(--ctrt-mono); font-size: 14px; font-weight: 700; }
.ctrt-view .ctrt-line.ctrt-removed .ctrt-name { text-decoration: line-through; }
.ctrt-view .ctrt-more { border-radius: 0; border-width: 1px 0 0; display: block; padding: 8px; width: 100%; }

.ctrt-view .ctrt-drawer { background: var(--ctrt-bg2); border: 1px solid var(--ctrt-line); border-radius: 6px; flex: 1 1 280px; max-height: 420px; max-width: 100%; min-width: 0; overflow: auto; padding: 10px 12px; }
.ctrt-view .ctrt-drawer.ctrt-over { box-shadow: 0 4px 18px rgb(0 0 0 / 35%); position: absolute; width: min(360px, 60%); z-index: 2; }
.ctrt-view .ctrt-drawer header { align-items: center; display: flex; gap: 8px; }
.ctrt-view .ctrt-drawer h4 { flex: 1; font-size: 14px; font-weight: 600; margin: 0; min-width: 0; overflow-wrap: anywhere; }
.ctrt-view .ctrt-drawer h4 small { color: var(--ctrt-muted); display: block; font-size: 11px; font-weight: 400; }
.ctrt-view .ctrt-close { background: none; border: 0; font-size: 18px; padding: 2px 7px; }
.ctrt-view .ctrt-meaning { margin: 8px 0; }
.ctrt-view dl { display: block; margin: 8px 0 0; }
.ctrt-view dt { color: var(--ctrt-muted); display: block; float: none; font-size: 11px; font-weight: 600; margin: 8px 0 2px; padding: 0; width: auto; }
.ctrt-view dd { display: block; float: none; margin: 0; overflow-wrap: anywhere; padding: 0; width: auto; }
.ctrt-view figure { margin: 0 0 6px; }
.ctrt-view figcaption { color: var(--ctrt-muted); font-family: var(--ctrt-mono); font-size: 11px; }
.ctrt-view pre, .ctrt-view code { background: var(--ctrt-bg); border: 1px solid var(--ctrt-line); border-radius: 4px; color: var(--ctrt-fg); font-family: var(--ctrt-mono); font-size: 12px; line-height: 1.4; margin: 0; padding: 4px 7px; }
.ctrt-view pre { overflow-wrap: anywhere; white-space: pre-wrap; }
.ctrt-view .ctrt-command { display: flex; gap: 6px; }
.ctrt-view .ctrt-command code { flex: 1; min-width: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.ctrt-view .ctrt-copy { flex: none; font-size: 12px; }
.ctrt-view a { color: var(--ctrt-focus); text-decoration: underline; }

.ctrt-view .ctrt-legend { background: var(--ctrt-bg2); border: 1px solid var(--ctrt-line); border-radius: 6px; display: flex; flex-wrap: wrap; font-size: 12px; gap: 10px 26px; margin-bottom: 10px; padding: 10px 14px; }
.ctrt-view .ctrt-legend > div { display: flex; flex-direction: column; gap: 8px; }
.ctrt-view .ctrt-legend > div > h5 + ul { margin-top: -8px; }
.ctrt-view .ctrt-legend h5 { color: var(--ctrt-muted); font-size: 11px; font-weight: 600; margin: 0 0 4px; }
.ctrt-view .ctrt-legend ul { list-style: none; margin: 0; padding: 0; }
.ctrt-view .ctrt-legend li { align-items: center; display: flex; gap: 8px; margin: 0; min-height: 24px; }
.ctrt-view kbd { background: var(--ctrt-bg); border: 1px solid var(--ctrt-line); border-radius: 4px; color: inherit; font-family: var(--ctrt-mono); font-size: 11px; min-width: 1.8em; padding: 1px 5px; text-align: center; }

.ctrt-view .ctrt-node { outline: none; }
.ctrt-view .ctrt-button { cursor: pointer; }
.ctrt-view svg text { fill: var(--ctrt-fg); font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 12px; white-space: pre; }
.ctrt-view .ctrt-shape { fill: var(--ctrt-bg); stroke: var(--k); stroke-width: 1.5; }
.ctrt-view .ctrt-button:hover > .ctrt-shape { fill: color-mix(in srgb, var(--k) 14%, var(--ctrt-bg)); }
.ctrt-view .ctrt-box > .ctrt-shape, .ctrt-view .ctrt-tabbed > .ctrt-shape { fill: var(--k); fill-opacity: 0.07; }
.ctrt-view .ctrt-box.ctrt-button:hover > .ctrt-shape, .ctrt-view .ctrt-tabbed.ctrt-button:hover > .ctrt-shape { fill: var(--k); fill-opacity: 0.12; }
.ctrt-view .ctrt-hexagon.ctrt-border-solid > .ctrt-shape { fill: var(--k); }
.ctrt-view .ctrt-sign .ctrt-off { fill: var(--ctrt-muted); }
.ctrt-view .ctrt-sign .ctrt-on { fill: var(--ctrt-c-user); }
.ctrt-view .ctrt-sign .ctrt-added, .ctrt-view .ctrt-sign .ctrt-removed { fill: none; stroke: var(--d); stroke-width: 1.5; }
.ctrt-view .ctrt-inner { fill: none; stroke: var(--k); stroke-width: 1; }
.ctrt-view .ctrt-border-dashed > .ctrt-shape { stroke-dasharray: 6 4; }
.ctrt-view .ctrt-hexagon.ctrt-border-dashed > .ctrt-shape { stroke-dasharray: 3 2; }
.ctrt-view .ctrt-border-dotted > .ctrt-shape { stroke: var(--ctrt-muted); stroke-dasharray: 0.1 4; stroke-linecap: round; stroke-width: 2; }
.ctrt-view .ctrt-row > .ctrt-shape, .ctrt-view .ctrt-text > .ctrt-shape { fill: var(--k); fill-opacity: 0; stroke: none; }
.ctrt-view .ctrt-row.ctrt-button:hover > .ctrt-shape, .ctrt-view .ctrt-text.ctrt-button:hover > .ctrt-shape { fill: var(--k); fill-opacity: 0.1; }
.ctrt-view .ctrt-legend .ctrt-row > .ctrt-shape { fill-opacity: 0.25; }
.ctrt-view .ctrt-node:not(.ctrt-row):is(.ctrt-added, .ctrt-changed, .ctrt-removed) > .ctrt-shape { stroke: var(--d); stroke-width: 2; }
.ctrt-view svg .ctrt-label { fill: var(--k); font-size: 13px; font-weight: 600; }
.ctrt-view .ctrt-band { fill: var(--ctrt-fg); fill-opacity: 0.045; }
.ctrt-view svg .ctrt-box .ctrt-label { font-size: 14px; }
.ctrt-view .ctrt-chip > .ctrt-shape { fill: var(--ctrt-bg2); stroke: var(--ctrt-muted); stroke-width: 1; }
.ctrt-view svg .ctrt-chip .ctrt-label { fill: var(--ctrt-fg); font-family: var(--ctrt-mono); }
.ctrt-view svg .ctrt-row .ctrt-label, .ctrt-view svg .ctrt-cell { font-family: var(--ctrt-mono); fill: var(--ctrt-fg); font-size: 12.5px; font-weight: 400; }
.ctrt-view svg .ctrt-family .ctrt-label { font-weight: 600; }
.ctrt-view svg .ctrt-together .ctrt-label { fill: var(--ctrt-muted); font-style: italic; }
.ctrt-view svg .ctrt-cell { fill: var(--ctrt-muted); }
.ctrt-view svg .ctrt-text .ctrt-label { fill: var(--ctrt-muted); font-size: 12px; font-weight: 400; }
.ctrt-view svg .ctrt-heading .ctrt-label, .ctrt-view svg .ctrt-title .ctrt-label { fill: var(--ctrt-fg); font-size: 14px; font-weight: 600; }
.ctrt-view svg .ctrt-head .ctrt-label { font-size: 11px; font-weight: 400; letter-spacing: 0.02em; }
.ctrt-view svg .ctrt-hexagon .ctrt-label { font-size: 11px; }
.ctrt-view svg .ctrt-hexagon.ctrt-border-solid .ctrt-label { fill: var(--ctrt-on-kind); }
.ctrt-view svg .ctrt-sub { fill: var(--ctrt-muted); }
.ctrt-view svg .ctrt-icon circle { fill: var(--k); }
.ctrt-view svg .ctrt-icon text { fill: var(--ctrt-on-kind); font-size: 11px; font-weight: 700; }
.ctrt-view svg .ctrt-corner circle { fill: var(--d); stroke: var(--ctrt-bg); stroke-width: 1.5; }
.ctrt-view svg .ctrt-corner text { fill: var(--ctrt-on-kind); font-family: var(--ctrt-mono); font-size: 12px; font-weight: 700; }
.ctrt-view .ctrt-strike .ctrt-label { opacity: 0.75; text-decoration: line-through; }
.ctrt-view .ctrt-ring { fill: none; pointer-events: none; stroke: none; }
.ctrt-view .ctrt-button[aria-pressed='true'] > .ctrt-ring { stroke: var(--ctrt-focus); stroke-width: 2; }
.ctrt-view .ctrt-button:focus-visible { outline: none; }
.ctrt-view .ctrt-button:focus-visible > .ctrt-ring { stroke: var(--ctrt-focus); stroke-width: 3.5; }
.ctrt-view .ctrt-pill > .ctrt-shape, .ctrt-view .ctrt-segment > .ctrt-shape, .ctrt-view .ctrt-trapezoid > .ctrt-shape { fill: color-mix(in srgb, var(--k) 7%, var(--ctrt-bg)); stroke-linejoin: round; }
.ctrt-view svg .ctrt-segment .ctrt-label { fill: var(--ctrt-fg); font-size: 12px; font-weight: 400; }
.ctrt-view .ctrt-edge { pointer-events: none; }
.ctrt-view .ctrt-ribbon { fill: var(--k); fill-opacity: 0.16; }
.ctrt-view .ctrt-has-selection .ctrt-near .ctrt-ribbon { fill-opacity: 0.3; }
.ctrt-view .ctrt-edge polyline { fill: none; stroke: var(--k); stroke-linejoin: round; stroke-width: 1.5; }
.ctrt-view .ctrt-edge .ctrt-head-of-arrow { fill: var(--k); stroke: none; }
.ctrt-view .ctrt-branch { --k: var(--ctrt-muted); }
.ctrt-view .ctrt-hair { --k: var(--ctrt-line); }
.ctrt-view .ctrt-dash polyline { stroke-dasharray: 5 4; }
.ctrt-view .ctrt-has-selection .ctrt-near:not(.ctrt-hair) polyline { stroke-width: 3; }

@keyframes ctrt-flash { from { background: color-mix(in srgb, var(--ctrt-changed-c) 35%, var(--ctrt-bg)); } }
@media (prefers-reduced-motion: no-preference) {
  .ctrt-view .ctrt-flash td { animation: ctrt-flash 1.2s ease-out 1; }
  .ctrt-view .ctrt-fold { transition: transform 0.1s; }
}
@media (forced-colors: active) {
  .ctrt-view .ctrt-button[aria-pressed='true'] > .ctrt-ring { stroke: Highlight; }
}
`;
