/**
 * The view: tree-table, graph and drawer over one picture and one selection.
 *
 * It knows nothing of JupyterLab, so that the mime renderer and the widget draw alike.
 */

import { PictureError, parse, type Picture } from './picture.js';
import { KINDS } from './kinds.js';
import { STYLE } from './style.js';
import { Tree, matches, words } from './tree.js';
import { Table, changed } from './table.js';
import { Graph } from './graph.js';
import { Drawer } from './drawer.js';
import { legend } from './legend.js';
import { html, plainKey } from './dom.js';

export interface Options {
  /** The id that is selected at first; "" is none. */
  readonly selected?: string;
  readonly filter?: string;
  readonly onSelect?: (id: string) => void;
  readonly onFilter?: (filter: string) => void;
}

export interface Handle {
  /** Draw another picture in place of this one; selection, folds and filter stay. */
  update(graph: unknown): void;
  select(id: string): void;
  filter(text: string): void;
  dispose(): void;
}

type Side = 'table' | 'graph';

/** The icon of each kind: the picture's own where it has one. */
function iconsOf(picture: Picture): Map<string, string> {
  const icons = new Map(Array.from(KINDS, ([kind, { icon }]) => [kind, icon]));
  for (const { kind, icon } of picture.nodes) {
    if (icon !== '') {
      icons.set(kind, icon);
    }
  }
  return icons;
}

/** A drawing that is but a list: the table says all that it says, and can be walked. */
function isList({ rows, nodes, edges }: Picture): boolean {
  const known = new Set(rows.map(({ id }) => id));
  const heads = new Set(['title', 'heading', 'head', 'sign']);
  return (
    rows.length > 0 &&
    edges.length === 0 &&
    nodes.every(({ id, shape, code, strike, cells }) =>
      shape === 'row'
        ? known.has(id) && !strike && cells.every(({ mark }) => mark === '')
        : shape === 'text' && heads.has(code),
    )
  );
}

class View implements Handle {
  private readonly root = html('div', { class: 'ctrt-view' });
  private readonly input = html('input', {
    type: 'search',
    placeholder: 'Filter  ( / )',
    'aria-label': 'Filter the rows',
    spellcheck: 'false',
    autocomplete: 'off',
  });
  private readonly status = html('span', { class: 'ctrt-status', role: 'status' });
  private readonly help = html(
    'button',
    { type: 'button', title: 'Legend ( ? )', 'aria-label': 'Legend', 'aria-expanded': 'false' },
    '?',
  );
  private readonly drawer = new Drawer(() => {
    this.close();
  });
  /** Fonts are measured once the page has laid the drawing out, which may be long after. */
  private readonly watch =
    typeof ResizeObserver === 'undefined'
      ? null
      : new ResizeObserver(() => {
          this.graph?.fit();
        });
  private picture: Picture | null = null;
  private icons: ReadonlyMap<string, string> = new Map();
  private tree = new Tree([]);
  private table: Table | null = null;
  private graph: Graph | null = null;
  private legend: HTMLElement | null = null;
  private selected: string;
  /** Where the reader was last. */
  private side: Side = 'table';

  constructor(
    graph: unknown,
    el: HTMLElement,
    private readonly options: Options,
  ) {
    this.selected = options.selected ?? '';
    this.input.value = options.filter ?? '';
    this.input.addEventListener('input', () => {
      this.refresh();
      this.options.onFilter?.(this.input.value);
    });
    this.help.addEventListener('click', () => {
      this.toggleLegend();
    });
    this.root.addEventListener('keydown', (event) => {
      this.key(event);
    });
    el.append(this.root);
    this.watch?.observe(this.root);
    this.update(graph);
  }

  update(graph: unknown): void {
    let picture: Picture;
    try {
      picture = parse(graph);
    } catch (error) {
      if (!(error instanceof PictureError)) {
        throw error;
      }
      this.picture = this.table = this.graph = null;
      const say = html('p', { class: 'ctrt-say', role: 'alert' }, error.message);
      this.root.replaceChildren(html('style', {}, STYLE), say);
      return;
    }
    const fresh = this.picture ? changed(this.picture, picture) : new Set<string>();
    const sides: readonly Side[] = ['table', 'graph'];
    const focused = sides.find((side) => this[side]?.element.contains(document.activeElement));
    // What stays is taken from the page and put back, which takes the keyboard from it.
    const active = document.activeElement;
    const held =
      active === this.input || active === this.help || this.drawer.element.contains(active);
    const top = this.table?.element.scrollTop ?? 0;
    const left = this.graph?.element.scrollLeft ?? 0;
    const tree = new Tree(picture.rows, picture.view);
    // What the drawing lists line by line need not stand in the table a second time, or the other
    // way round where it does nothing else.
    const list = isList(picture);
    const listed = new Set(
      picture.nodes.filter((node) => !list && node.shape === 'row').map(({ id }) => id),
    );
    for (const { id, parent } of picture.rows) {
      if (parent !== null && listed.has(id) && !listed.has(parent)) {
        tree.fold(parent, true);
      }
    }
    tree.adopt(this.tree);
    this.picture = picture;
    this.tree = tree;
    this.icons = iconsOf(picture);
    this.table = new Table(picture, this.icons, {
      select: (id) => {
        this.choose(id, 'table');
      },
      open: (id) => {
        this.openDrawer(id, 'table');
      },
      fold: (id, folded) => {
        this.tree.fold(id, folded);
        this.refresh();
      },
    });
    this.graph = new Graph(picture, this.icons, {
      select: (id) => {
        this.choose(id, 'graph');
      },
      open: (id) => {
        this.openDrawer(id, 'graph');
      },
      leave: () => {
        this.table?.focus();
      },
    });
    const { title, description } = picture;
    this.root.setAttribute('role', 'group');
    this.root.setAttribute('aria-label', description === '' ? title : `${title}. ${description}`);
    this.root.replaceChildren(
      html('style', {}, STYLE),
      html('div', { class: 'ctrt-bar' }, html('h3', {}, title), this.status, this.input, this.help),
      html(
        'div',
        { class: list ? 'ctrt-main ctrt-list' : 'ctrt-main' },
        this.graph.element,
        html('div', { class: 'ctrt-side' }, this.table.element, this.drawer.element),
      ),
    );
    if (this.legend) {
      this.legend = null;
      this.toggleLegend();
    }
    if (!this.knows(this.selected)) {
      this.selected = '';
      this.drawer.hide();
    }
    this.refresh(fresh);
    this.graph.fit();
    this.table.element.scrollTop = top;
    this.graph.element.scrollLeft = left;
    if (focused) {
      this[focused]?.hold();
    } else if (held && active instanceof HTMLElement) {
      (active.isConnected ? active : this.drawer.element).focus({ preventScroll: true });
    }
  }

  select(id: string): void {
    if (id !== this.selected) {
      this.selected = this.knows(id) ? id : '';
      this.tree.reveal(this.selected);
      this.refresh();
    }
  }

  filter(text: string): void {
    if (text !== this.input.value) {
      this.input.value = text;
      this.refresh();
    }
  }

  dispose(): void {
    this.watch?.disconnect();
    this.root.remove();
  }

  private knows(id: string): boolean {
    const { picture } = this;
    return (
      picture !== null &&
      (this.tree.get(id) !== undefined || picture.nodes.some((node) => node.id === id))
    );
  }

  /** The reader selected something: show it everywhere and tell. */
  private choose(id: string, side: Side): void {
    this.side = side;
    if (id !== this.selected) {
      this.selected = id;
      this.show();
      this.options.onSelect?.(id);
    }
  }

  /** Bring table, graph and drawer to the selection. */
  private show(): void {
    const { picture, table, graph, selected } = this;
    if (picture && table && graph) {
      const before = this.tree.lines().length;
      this.tree.reveal(selected);
      if (this.tree.lines().length !== before) {
        this.refresh();
        return;
      }
      table.select(selected);
      graph.select(selected);
      if (selected === '') {
        this.drawer.hide();
      } else if (this.drawer.open) {
        this.openDrawer(selected, this.side);
      }
    }
  }

  /** Draw the lines again: folds, filter or rows have changed. */
  private refresh(fresh: ReadonlySet<string> = new Set()): void {
    const { picture, table, graph } = this;
    if (picture && table && graph) {
      const matching = this.tree.matching(this.input.value);
      table.show(this.tree.lines(matching), fresh);
      const wanted = words(this.input.value);
      graph.dim((node) =>
        matching !== null && this.tree.get(node.id)
          ? matching.has(node.id)
          : matches(wanted, node.kind, node.code, node.label, node.sub),
      );
      const total = picture.rows.length;
      const rows = total === 1 ? '1 row' : `${String(total)} rows`;
      this.status.textContent = matching ? `${String(matching.size)} of ${rows}` : rows;
      this.show();
    }
  }

  private openDrawer(id: string, side: Side): void {
    this.side = side;
    if (this.picture) {
      this.drawer.show(this.picture, id, (kind) => this.icons.get(kind) ?? '');
      this.drawer.beside(side === 'graph' ? (this.graph?.shape(id) ?? null) : null);
    }
  }

  private close(): void {
    this.drawer.hide();
    this[this.side]?.focus();
  }

  private toggleLegend(): void {
    if (this.legend) {
      this.legend.remove();
      this.legend = null;
    } else if (this.picture) {
      this.legend = legend(this.picture, this.icons);
      this.root.querySelector('.ctrt-bar')?.after(this.legend);
    }
    this.help.setAttribute('aria-expanded', String(this.legend !== null));
  }

  private key(event: KeyboardEvent): void {
    if (!plainKey(event)) {
      return;
    }
    // A notebook has commands on single letters (two d's delete a cell): they stop here.
    event.stopPropagation();
    const typing = event.target === this.input;
    if (event.key === 'Escape') {
      this.escape(typing);
    } else if (typing && (event.key === 'Enter' || event.key === 'ArrowDown')) {
      this.table?.focus();
    } else if (!typing && event.key === '/') {
      this.input.focus();
      this.input.select();
    } else if (!typing && event.key === 'g') {
      this.graph?.focus();
    } else if (!typing && event.key === '?') {
      this.toggleLegend();
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Escape undoes one thing: the filter while it is typed, the drawer, then the legend. */
  private escape(typing: boolean): void {
    if (typing && this.input.value !== '') {
      this.input.value = '';
      this.refresh();
      this.options.onFilter?.('');
    } else if (typing) {
      this.table?.focus();
    } else if (this.drawer.open) {
      this.close();
    } else if (this.legend) {
      this.toggleLegend();
    }
  }
}

/**
 * Draw a picture's JSON into an element.
 *
 * A picture that cannot be drawn leaves one sentence in its place.
 */
export function draw(graph: unknown, el: HTMLElement, options: Options = {}): Handle {
  return new View(graph, el, options);
}
