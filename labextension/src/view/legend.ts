/** The legend: kinds that occur in the picture, lines, signs and keys. */

import type { Edge, Node, Picture } from './picture.js';
import { DIFF_NAMES, diffClass, kindClass, kindName } from './kinds.js';
import { drawEdge, drawNode, isSpace } from './shapes.js';
import { html, svg } from './dom.js';

/** What a shape stands for, and with another word in the views where it is something else. */
const SHAPES: readonly [shape: string, words: string, elsewhere?: Record<string, string>][] = [
  [
    'container',
    'user namespace',
    { network: 'network namespace', stack: 'container', layers: 'layer' },
  ],
  ['tabbed', 'pid namespace'],
  ['pill', 'another namespace', { stack: 'new namespace' }],
  ['chip', 'process', { network: 'interface' }],
  ['row', 'mount'],
  ['hexagon', 'peer group'],
  ['segment', 'range of ids'],
  ['trapezoid', 'cgroup, with its limits and use'],
];

const LINES: readonly [kind: string, words: string][] = [
  ['ribbon', 'the same ids'],
  ['veth', 'a veth pair'],
  ['link', 'started the one below'],
];

const BORDERS: readonly [Node['border'], string][] = [
  ['solid', 'made for this'],
  ['dashed', 'the initial namespace'],
  ['double', 'less privileged than its origin'],
  ['dotted', 'could not be read'],
];

const KEYS: readonly [string, string][] = [
  ['↑ ↓', 'walk'],
  ['← →', 'fold and unfold'],
  ['Shift ← →', 'scroll sideways'],
  ['Home End', 'first and last'],
  ['Enter, e', 'details'],
  ['Esc', 'close'],
  ['/', 'filter'],
  ['g', 'graph and back'],
  ['?', 'this legend'],
];

function sample(shape: string, border: Node['border']): SVGSVGElement {
  const node: Node = {
    id: 'sample',
    parent: null,
    kind: 'note',
    shape,
    x: 4,
    y: 4,
    w: 40,
    h: 18,
    icon: '',
    code: '',
    label: '',
    sub: '',
    border,
    diff: '',
    strike: false,
    cells: [],
  };
  const inside: Node = { ...node, shape: 'pill', x: 14, y: 10, w: 20, h: 7 };
  return svg(
    'svg',
    { viewBox: '0 0 48 26', width: 48, height: 26, 'aria-hidden': 'true' },
    drawNode(node, '')[0],
    shape === 'container' ? drawNode(inside, '')[0] : null,
  );
}

function line(kind: string): SVGSVGElement {
  const ribbon: Edge['points'] = [
    [14, 2],
    [34, 2],
    [42, 24],
    [6, 24],
  ];
  const straight: Edge['points'] = [
    [8, 13],
    [40, 13],
  ];
  const edge: Edge = {
    from: 'sample',
    to: 'sample',
    kind,
    points: kind === 'ribbon' ? ribbon : straight,
    arrow: kind === 'link' ? 'end' : 'none',
    dash: false,
  };
  return svg(
    'svg',
    { viewBox: '0 0 48 26', width: 48, height: 26, 'aria-hidden': 'true' },
    drawEdge(edge),
  );
}

function group(
  title: string,
  entries: readonly (readonly [Element, string])[],
): HTMLElement | null {
  if (entries.length === 0) {
    return null;
  }
  const list = html('ul');
  for (const [sign, words] of entries) {
    list.append(html('li', {}, sign, html('span', {}, words)));
  }
  return html('div', {}, html('h5', {}, title), list);
}

export function legend(picture: Picture, icons: ReadonlyMap<string, string>): HTMLElement {
  const drawn = picture.nodes.filter(({ shape }) => shape !== 'text');
  const kinds = new Set([...picture.rows, ...drawn].map(({ kind }) => kind));
  // A line is a mount in one view and something else in another, where its words say what.
  const shapes = new Set(
    drawn
      .filter(({ shape, kind }) => shape !== 'row' || kind === 'mount')
      .map(({ shape }) => shape),
  );
  const spaces = drawn.filter((node) => isSpace(node) || node.border === 'dotted');
  const lines = new Set(picture.edges.map(({ kind }) => kind));
  const borders = new Set(spaces.map(({ border }) => border));
  const diffs = new Set<string>([...picture.rows, ...picture.nodes].map(({ diff }) => diff));
  const keys = group(
    'Keys',
    KEYS.map(([key, words]) => [html('kbd', {}, key), words]),
  );
  keys?.classList.add('ctrt-keys');
  const entries = [
    group(
      'Kinds',
      [...kinds].map((kind) => [
        html('span', { class: `ctrt-badge ${kindClass(kind)}` }, icons.get(kind) ?? ''),
        kindName(kind, picture.view),
      ]),
    ),
    group(
      'Shapes',
      SHAPES.filter(([shape]) => shapes.has(shape)).map(([shape, words, elsewhere]) => [
        sample(shape, 'solid'),
        elsewhere?.[picture.view] ?? words,
      ]),
    ),
    html(
      'div',
      {},
      group(
        'Lines',
        LINES.filter(([kind]) => lines.has(kind)).map(([kind, words]) => [line(kind), words]),
      ),
      group(
        'Borders',
        BORDERS.filter(([border]) => borders.size > 1 && borders.has(border)).map(
          ([border, words]) => [sample('box', border), words],
        ),
      ),
      group(
        'Differences',
        [...DIFF_NAMES]
          .filter(([sign]) => diffs.has(sign))
          .map(([sign, words]) => [
            html('span', { class: `ctrt-mark ${diffClass(sign)}` }, sign),
            words,
          ]),
      ),
    ),
    keys,
  ];
  return html('aside', { class: 'ctrt-legend', 'aria-label': 'Legend' }, ...entries);
}
