/**
 * The graph: shapes where Python put them, walked by pointer or by keys.
 *
 * Left and Right go through the shapes in reading order, Up to the shape around one, Down into
 * it: every shape can be reached, and the same keys always lead the same way.
 */

import type { Edge, Node, Picture } from './picture.js';
import { drawEdge, drawNode, fit, makeButton, type Words } from './shapes.js';
import { html, plainKey, scrolledAside, svg } from './dom.js';

/** Above this many shapes a graph is a hairball: the table serves better. */
export const MAX_SHAPES = 300;

/** User units of ground above the topmost shape. */
const MARGIN = 10;

/** Below this share of its own size the words of a drawing cannot be read: it scrolls instead. */
const SMALLEST = 0.75;

/** Pixels below which a drawing is not on the page yet. */
const SEEN_FROM = 100;

const BOXES = ['container', 'tabbed'];

/** A band behind every other line of a table, so that the eye finds from one column to the next. */
function bands(nodes: readonly Node[]): SVGRectElement[] {
  const lines = nodes.filter(({ shape }) => shape === 'row');
  /** What holds each line: a box, or nothing. */
  const holders = new Map<string, string | null>();
  const lefts = new Map<string | null, number>();
  for (const { id, parent, x } of lines) {
    const above = parent ?? '';
    const holder = holders.has(above) ? (holders.get(above) ?? null) : parent;
    holders.set(id, holder);
    lefts.set(holder, Math.min(lefts.get(holder) ?? x, x));
  }
  return lines
    .filter((_, i) => i % 2 === 0)
    .map(({ id, x, y, w, h }) => {
      const left = (lefts.get(holders.get(id) ?? null) ?? x) - 8;
      return svg('rect', {
        class: 'ctrt-band',
        x: left,
        y,
        width: x + w + 8 - left,
        height: h,
        rx: 5,
      });
    });
}

export interface GraphEvents {
  select(id: string): void;
  open(id: string): void;
  leave(): void;
}

interface Drawn {
  readonly node: Node;
  readonly element: SVGGElement;
}

export class Graph {
  readonly element = html('div', { class: 'ctrt-graph' });
  private readonly drawn = new Map<string, Drawn>();
  private readonly order: Drawn[] = [];
  private readonly edges: { edge: Edge; element: SVGGElement }[] = [];
  private unfitted: Words[] = [];
  private selected = '';
  private quiet = false;

  constructor(
    picture: Picture,
    icons: ReadonlyMap<string, string>,
    private readonly events: GraphEvents,
  ) {
    const rows = new Set(picture.rows.map(({ id }) => id));
    /** True for what a reader can ask about; other words are there to be read only. */
    const answers = (id: string): boolean => rows.has(id) || picture.details.has(id);
    const { title, width, height } = picture;
    // The title stands above the view already; the drawing begins where its shapes do.
    const nodes = picture.nodes.filter(({ code, label }) => code !== 'title' || label !== title);
    const top = Math.max(0, Math.min(...nodes.map(({ y }) => y)) - MARGIN);
    if (nodes.length === 0) {
      this.element.hidden = true;
      return;
    }
    if (nodes.length > MAX_SHAPES) {
      this.element.append(
        html(
          'p',
          { class: 'ctrt-say' },
          `The graph would have ${String(nodes.length)} shapes, more than can be read: filter the table, ` +
            'or draw a part.',
        ),
      );
      return;
    }
    this.element.style.setProperty('--ctrt-width', `${String(width)}px`);
    this.element.style.setProperty('--ctrt-least', `${String(Math.round(width * SMALLEST))}px`);
    const canvas = svg(
      'svg',
      {
        viewBox: `0 ${String(top)} ${String(width)} ${String(Math.max(1, height - top))}`,
        role: 'group',
        'aria-label': title,
        'aria-roledescription': 'graph',
      },
      svg('desc', {}, picture.description),
    );
    // Boxes are the ground that lines run on, and every other shape stands on both.
    const [boxes, ground, others] = [svg('g'), svg('g'), svg('g')];
    ground.append(...bands(nodes));
    for (const node of nodes) {
      const [element, words] = drawNode(node, icons.get(node.kind) ?? '');
      this.unfitted.push(...words);
      (BOXES.includes(node.shape) ? boxes : others).append(element);
      if (node.shape === 'text' && !answers(node.id)) {
        continue;
      }
      makeButton(element, node, picture.view);
      element.addEventListener('click', (event) => {
        event.stopPropagation();
        this.focus(node.id, true);
        events.open(node.id);
      });
      this.drawn.set(node.id, { node, element });
      this.order.push({ node, element });
    }
    for (const edge of picture.edges) {
      const element = drawEdge(edge);
      this.edges.push({ edge, element });
      ground.append(element);
    }
    canvas.append(boxes, ground, others);
    this.order[0]?.element.setAttribute('tabindex', '0');
    canvas.addEventListener('keydown', (event) => {
      this.key(event);
    });
    canvas.addEventListener('focusin', (event) => {
      const found = this.order.find(({ element }) => element === event.target);
      if (found && found.node.id !== this.selected && !this.quiet) {
        events.select(found.node.id);
      }
    });
    this.element.append(canvas);
  }

  /** The drawn outline of a node. */
  shape(id: string): Element | null {
    return this.drawn.get(id)?.element.querySelector('.ctrt-shape') ?? null;
  }

  /** Cut the words that are too long; done once, as soon as the page has laid the drawing out. */
  fit(): void {
    // A drawing without room, as a notebook makes one off the page, measures too coarsely.
    if (this.element.getBoundingClientRect().width < SEEN_FROM) {
      return;
    }
    this.unfitted = this.unfitted.filter((words) => !fit(words));
  }

  select(id: string): void {
    const before = this.drawn.get(this.selected);
    before?.element.setAttribute('aria-pressed', 'false');
    before?.element.setAttribute('tabindex', '-1');
    this.selected = id;
    const now = this.drawn.get(id);
    now?.element.setAttribute('aria-pressed', 'true');
    const entry = now ?? this.order[0];
    entry?.element.setAttribute('tabindex', '0');
    this.element.classList.toggle('ctrt-has-selection', now !== undefined);
    for (const { edge, element } of this.edges) {
      element.classList.toggle('ctrt-near', edge.from === id || edge.to === id);
    }
  }

  /** Dim what a filter does not want. */
  dim(wanted: (node: Node) => boolean): void {
    for (const { node, element } of this.order) {
      element.classList.toggle('ctrt-dim', !wanted(node));
    }
    for (const { edge, element } of this.edges) {
      const ends = [this.drawn.get(edge.from), this.drawn.get(edge.to)];
      element.classList.toggle('ctrt-dim', !ends.every((end) => !end || wanted(end.node)));
    }
  }

  /** Move the keyboard to a shape, or to the selected one, or to the first. */
  focus(id = this.selected, preventScroll = false): boolean {
    const target = this.drawn.get(id) ?? this.order[0];
    target?.element.focus({ preventScroll });
    return target !== undefined;
  }

  /** Keep the focus where it is, or near, after a new drawing: nothing is selected by that. */
  hold(id = this.selected): void {
    this.quiet = true;
    this.focus(id, true);
    this.quiet = false;
  }

  private key(event: KeyboardEvent): void {
    const at = this.order.findIndex(({ element }) => element === event.target);
    const current = this.order[at]?.node;
    if (!current || !plainKey(event) || scrolledAside(event, this.element)) {
      return;
    }
    const targets: Record<string, () => string | undefined | null> = {
      ArrowRight: () => this.order[at + 1]?.node.id,
      ArrowLeft: () => this.order[at - 1]?.node.id,
      ArrowUp: () => current.parent,
      ArrowDown: () => this.order.find(({ node }) => node.parent === current.id)?.node.id,
      Home: () => this.order[0]?.node.id,
      End: () => this.order.at(-1)?.node.id,
    };
    if (event.key in targets) {
      const target = targets[event.key]?.();
      if (target != null) {
        this.focus(target);
      }
    } else if (event.key === 'Enter' || event.key === ' ' || event.key === 'e') {
      this.events.open(current.id);
    } else if (event.key === 'g') {
      this.events.leave();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
