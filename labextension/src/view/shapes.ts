/**
 * One shape of the graph: outline, icon, words.
 *
 * The form says what a thing is, the line around it how it stands to its origin: dashed is the
 * initial namespace, double has less privilege than where it came from, dotted could not be read.
 * Sizes of text and distances are those that the places were computed with (`ctrt/draw`).
 */

import type { Edge, Node, Point } from './picture.js';
import { DIFF_NAMES, diffClass, kindClass, kindName } from './kinds.js';
import { classes, svg } from './dom.js';

const DISC = 10;
const TAB = 30;
const BOX_HEADER = 50;
const SLOPE = 9;

/** An arrow shorter than this has no room for two heads. */
const TWO_HEADS = 14;

/** Words with the room they have; `fit` cuts them once the page can measure. */
export interface Words {
  readonly element: SVGTextElement;
  readonly width: number;
}

interface Frame {
  readonly l: number;
  readonly t: number;
  readonly r: number;
  readonly b: number;
}

type Step = readonly [command: string, ...numbers: number[]];

function path(steps: readonly Step[], className: string): SVGPathElement {
  const d = steps.map(([command, ...numbers]) => command + numbers.join(' ')).join('');
  return svg('path', { d: `${d}Z`, class: className });
}

function rectangle({ l, t, r, b }: Frame, radius: number, className: string): SVGRectElement {
  const [width, height] = [r - l, b - t];
  const rx = Math.max(0, Math.min(radius, width / 2, height / 2));
  return svg('rect', { x: l, y: t, width, height, rx, class: className });
}

/** About the width of a tab: its words are measured only when they are on the page. */
function tabWidth({ label, sub, w }: Node): number {
  return Math.min(w * 0.8, 62 + label.length * 9 + sub.length * 7);
}

function tabbed(node: Node, { l, t, r, b }: Frame, className: string): SVGPathElement {
  const end = l + tabWidth(node);
  const shoulder = Math.min(t + TAB, b);
  const steps: Step[] = [
    ['M', l, b - 6],
    ['V', t + 6],
    ['Q', l, t, l + 6, t],
    ['H', end - 10],
    ['Q', end - 4, t, end - 1, t + 6],
    ['L', end + 8, shoulder],
    ['H', r - 6],
    ['Q', r, shoulder, r, shoulder + 6],
    ['V', b - 6],
    ['Q', r, b, r - 6, b],
    ['H', l + 6],
    ['Q', l, b, l, b - 6],
  ];
  return path(steps, className);
}

/** A tab too small to hold words: the sign that stands for the shape in a legend. */
function folder({ l, t, r, b }: Frame, className: string): SVGPathElement {
  const middle = (l + r) / 2;
  const steps: Step[] = [
    ['M', l, b],
    ['V', t],
    ['H', middle - 4],
    ['L', middle, t + 6],
    ['H', r],
    ['V', b],
  ];
  return path(steps, className);
}

function hexagon({ l, t, r, b }: Frame, className: string): SVGPathElement {
  const point = Math.min((r - l) / 4, (b - t) / 2);
  const middle = (t + b) / 2;
  const steps: Step[] = [
    ['M', l, middle],
    ['L', l + point, t],
    ['H', r - point],
    ['L', r, middle],
    ['L', r - point, b],
    ['H', l + point],
  ];
  return path(steps, className);
}

/** A cgroup: narrower at its foot, where what is left for those below goes through. */
function trapezoid({ l, t, r, b }: Frame, className: string): SVGPathElement {
  const steps: Step[] = [
    ['M', l, t],
    ['H', r],
    ['L', r - SLOPE, b],
    ['H', l + SLOPE],
  ];
  return path(steps, className);
}

/** The outline of a node, `inset` user units inside its rectangle. */
function outline(node: Node, inset: number, className: string): Element | null {
  const frame: Frame = {
    l: node.x + inset,
    t: node.y + inset,
    r: node.x + node.w - inset,
    b: node.y + node.h - inset,
  };
  if (frame.r <= frame.l || frame.b <= frame.t) {
    return null;
  }
  switch (node.shape) {
    case 'tabbed':
      return node.h > TAB ? tabbed(node, frame, className) : folder(frame, className);
    case 'hexagon':
      return hexagon(frame, className);
    case 'pill':
      return rectangle(frame, node.h / 2, className);
    case 'trapezoid':
      return trapezoid(frame, className);
    case 'chip':
      return rectangle(frame, 7, className);
    case 'segment':
      return rectangle(frame, 5 - inset, className);
    case 'row':
    case 'text':
      return rectangle({ ...frame, l: frame.l - 5 }, 3, className);
    default:
      return rectangle(frame, 14 - inset, className);
  }
}

function disc(icon: string, cx: number, cy: number): SVGGElement {
  return svg(
    'g',
    { class: 'ctrt-icon' },
    svg('circle', { cx, cy, r: DISC }),
    svg('text', { x: cx, y: cy, dy: '0.36em', 'text-anchor': 'middle' }, icon.slice(0, 2)),
  );
}

/** A sign in a matrix, told by its form as well as by its colour. */
function sign(x: number, y: number, name: string): SVGElement {
  if (name === 'off') {
    return svg('circle', { class: 'ctrt-off', cx: x, cy: y, r: 1.6 });
  }
  const box = svg('rect', { x: x - 7, y: y - 7, width: 14, height: 14, rx: 3.5 });
  if (name === 'on') {
    return svg('g', { class: 'ctrt-on' }, box);
  }
  const [left, top] = [String(x - 3.5), String(y - 3.5)];
  const minus = `M${left} ${String(y)}h7`;
  return name === 'gained'
    ? svg('g', { class: 'ctrt-added' }, box, svg('path', { d: `${minus}M${String(x)} ${top}v7` }))
    : svg('g', { class: 'ctrt-removed' }, box, svg('path', { d: minus }));
}

/** The sign of a difference, on the upper right corner: there it takes no room from words. */
function mark({ x, y, w, diff }: Node): SVGGElement {
  const [cx, cy] = [x + w - 9, y];
  return svg(
    'g',
    { class: 'ctrt-corner' },
    svg('circle', { cx, cy, r: 7.5 }),
    svg('text', { x: cx, y: cy, dy: '0.36em', 'text-anchor': 'middle' }, diff),
  );
}

/** Whether a line around this shape says how it stands to its origin. */
export function isSpace({ shape }: Node): boolean {
  return ['container', 'tabbed', 'pill'].includes(shape);
}

const BORDER_WORDS = {
  solid: '',
  dashed: 'initial',
  double: 'less privileged than its origin',
  dotted: 'could not be read',
};

/** What a screen reader says, and what the pointer shows: words that the drawing may have cut. */
export function spoken(node: Node, view = ''): string {
  const name = node.label || node.code || node.id;
  const border = isSpace(node) || node.border === 'dotted' ? BORDER_WORDS[node.border] : '';
  return [
    kindName(node.kind, view),
    name,
    node.sub,
    DIFF_NAMES.get(node.diff) ?? '',
    node.strike ? 'covered by a later mount' : '',
    node.sub.includes(border) ? '' : border,
  ]
    .filter(Boolean)
    .join(', ');
}

/** Make a drawn node something that can be reached and pressed. */
export function makeButton(element: SVGGElement, node: Node, view: string): void {
  element.classList.add('ctrt-button');
  element.setAttribute('role', 'button');
  element.setAttribute('tabindex', '-1');
  element.setAttribute('aria-pressed', 'false');
  const words = spoken(node, view);
  element.setAttribute('aria-label', words);
  element.prepend(svg('title', {}, words));
}

interface Place {
  readonly x: number;
  readonly y: number;
  readonly room: number;
  readonly anchor?: 'middle';
}

/** Where the icon and the words of a node go. */
function place(node: Node, icon: string): { disc: Place | null; words: Place } {
  const { x, y, w, h } = node;
  const middle = y + h / 2;
  const withDisc = (left: number, cy: number, end: number): { disc: Place | null; words: Place } =>
    icon === ''
      ? { disc: null, words: { x: left, y: cy, room: end - left } }
      : {
          disc: { x: left + DISC, y: cy, room: 2 * DISC },
          words: { x: left + 2 * DISC + 6, y: cy, room: end - left - 2 * DISC - 6 },
        };
  switch (node.shape) {
    case 'tabbed':
      return withDisc(x + 10, y + Math.min(TAB, h) / 2 + 1, x + tabWidth(node));
    case 'pill':
      return withDisc(x + 8, middle, x + w - 4);
    case 'chip':
      return { disc: null, words: { x: x + 14, y: middle, room: w - 18 } };
    case 'trapezoid':
      return { disc: null, words: { x: x + SLOPE + 7, y: middle, room: w - 2 * SLOPE - 9 } };
    case 'hexagon':
    case 'segment':
      return { disc: null, words: { x: x + w / 2, y: middle, room: w - 4, anchor: 'middle' } };
    case 'row': {
      // A sign may stand before the words.
      const end = node.cells.find((cell) => cell.x > x)?.x ?? x + w;
      return { disc: null, words: { x, y: middle, room: end - x - 4 } };
    }
    case 'text':
      return { disc: null, words: { x, y: middle, room: Infinity } };
    default:
      return withDisc(x + 18, y + Math.min(BOX_HEADER, h) / 2, x + w - 14);
  }
}

function write(
  group: SVGGElement,
  { x, y, room, anchor }: Place,
  ...spans: SVGTSpanElement[]
): Words {
  const element = svg('text', { x, y, dy: '0.36em', 'text-anchor': anchor ?? null }, ...spans);
  group.append(element);
  return { element, width: room };
}

const FORMS = ['tabbed', 'pill', 'chip', 'hexagon', 'row', 'segment', 'text', 'trapezoid'];

/** The group of one node, and its words for `fit`. */
export function drawNode(node: Node, icon: string): [SVGGElement, Words[]] {
  const shape = FORMS.includes(node.shape) ? node.shape : 'box';
  const group = svg('g', {
    class: classes(
      'ctrt-node',
      `ctrt-${shape}`,
      shape === 'text' && ['title', 'heading', 'head'].includes(node.code) && `ctrt-${node.code}`,
      `ctrt-border-${node.border}`,
      kindClass(node.kind),
      diffClass(node.diff),
      node.strike && 'ctrt-strike',
      ['family', 'together'].includes(node.code) && `ctrt-${node.code}`,
    ),
  });
  const lines = [outline(node, -3.5, 'ctrt-ring'), outline(node, 0, 'ctrt-shape')];
  if (node.border === 'double') {
    lines.push(outline(node, 3, 'ctrt-inner'));
  }
  group.append(...lines.filter((each) => each !== null));

  const at = place(node, node.icon || icon);
  if (at.disc) {
    group.append(disc(node.icon || icon, at.disc.x, at.disc.y));
  }
  const spans = [svg('tspan', { class: 'ctrt-label' }, node.label || node.code)];
  if (node.sub !== '' && node.cells.length === 0 && shape !== 'hexagon') {
    spans.push(svg('tspan', { class: 'ctrt-sub', dx: 8 }, node.sub));
  }
  const words = [write(group, at.words, ...spans)];
  node.cells.forEach((cell, i) => {
    if (cell.mark !== '') {
      group.append(svg('g', { class: 'ctrt-sign' }, sign(cell.x, at.words.y, cell.mark)));
      return;
    }
    const end = node.cells[i + 1]?.x ?? node.x + node.w;
    const span = svg('tspan', { class: 'ctrt-cell' }, cell.text);
    words.push(write(group, { x: cell.x, y: at.words.y, room: end - cell.x - 4 }, span));
  });
  // The line of a table has its sign in a column.
  if (node.diff !== '' && shape !== 'row') {
    group.append(mark(node));
  }
  return [group, words];
}

/** Cut words that do not fit into their room; false as long as the page cannot measure. */
export function fit({ element, width }: Words): boolean {
  const spans = Array.from(element.children).reverse() as SVGTSpanElement[];
  const measure = (): number =>
    typeof element.getComputedTextLength === 'function' ? element.getComputedTextLength() : 0;
  let length = measure();
  if (length === 0) {
    return element.textContent === '';
  }
  for (const span of spans) {
    let text = span.textContent;
    while (length > width && text.length > 0) {
      // Cut by the share that is too long, at least one character, and look again.
      const keep = Math.min(text.length - 1, Math.floor((text.length * width) / length));
      text = text.slice(0, Math.max(0, keep));
      span.textContent = text.length > 1 ? `${text.trimEnd()}…` : '';
      length = measure();
    }
  }
  return true;
}

function arrowHead([x, y]: Point, [fromX, fromY]: Point): SVGPolygonElement {
  const angle = Math.atan2(y - fromY, x - fromX);
  const corner = (turn: number): string =>
    `${String(x - 8 * Math.cos(angle + turn))},${String(y - 8 * Math.sin(angle + turn))}`;
  return svg('polygon', {
    class: 'ctrt-head-of-arrow',
    points: `${String(x)},${String(y)} ${corner(0.42)} ${corner(-0.42)}`,
  });
}

/** The kind whose colour a line has; what else there is runs between peer groups of mounts. */
const EDGE_KINDS: ReadonlyMap<string, string> = new Map([
  ['tree', 'ctrt-branch'],
  ['link', 'ctrt-branch'],
  ['ribbon', kindClass('user')],
  ['veth', kindClass('net')],
]);

/** A line, or the ribbon between two that are the same. */
export function drawEdge({ points, kind, arrow, dash }: Edge): SVGGElement {
  const corners = points.map(([x, y]) => `${String(x)},${String(y)}`).join(' ');
  const group = svg(
    'g',
    {
      class: classes(
        'ctrt-edge',
        EDGE_KINDS.get(kind) ?? kindClass('group'),
        kind === 'tree' && 'ctrt-hair',
        dash && 'ctrt-dash',
      ),
      'aria-hidden': 'true',
    },
    kind === 'ribbon'
      ? svg('polygon', { class: 'ctrt-ribbon', points: corners })
      : svg('polyline', { points: corners }),
  );
  const [first, second] = points;
  const [before, last] = points.slice(-2);
  if (!first || !second || !before || !last) {
    return group;
  }
  const length = Math.abs(last[0] - first[0]) + Math.abs(last[1] - first[1]);
  if (arrow === 'end' || (arrow === 'both' && length >= TWO_HEADS)) {
    group.append(arrowHead(last, before));
    if (arrow === 'both') {
      group.append(arrowHead(first, second));
    }
  }
  return group;
}
