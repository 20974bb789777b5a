/**
 * The tree-table: what a reader scans, filters and walks with the keyboard.
 *
 * Keys are those of the ARIA treegrid pattern with the focus on rows. The focused row is the
 * selected one. A long table shows its first lines and a button for more.
 */

import type { Picture } from './picture.js';
import type { Line } from './tree.js';
import { DIFF_NAMES, diffClass, kindClass, kindName } from './kinds.js';
import { classes, html, plainKey, scrolledAside } from './dom.js';

/** Lines that are drawn at once. */
export const PAGE = 200;

export interface TableEvents {
  select(id: string): void;
  open(id: string): void;
  fold(id: string, folded: boolean): void;
}

export class Table {
  readonly element = html('div', { class: 'ctrt-table' });
  private readonly body = html('tbody', { role: 'rowgroup' });
  private readonly more = html('button', { class: 'ctrt-more', type: 'button' });
  private readonly rows = new Map<string, HTMLTableRowElement>();
  /** Which columns have something in them: an empty one only takes place. */
  private readonly shown: readonly boolean[];
  private lines: readonly Line[] = [];
  private limit = PAGE;
  private selected = '';
  private quiet = false;

  constructor(
    private readonly picture: Picture,
    private readonly icons: ReadonlyMap<string, string>,
    private readonly events: TableEvents,
  ) {
    const head = html('tr', { role: 'row' });
    this.shown = picture.columns.map(
      (_, i) => i === 0 || picture.rows.some((row) => (row.cells[i] ?? '') !== ''),
    );
    picture.columns.forEach((column, i) => {
      if (this.shown[i]) {
        head.append(html('th', { role: 'columnheader', scope: 'col' }, column.title));
      }
    });
    const table = html(
      'table',
      { role: 'treegrid', 'aria-label': picture.title },
      html('thead', { role: 'rowgroup' }, head),
      this.body,
    );
    this.more.addEventListener('click', () => {
      const first = this.lines[this.limit];
      this.limit += PAGE;
      this.show(this.lines, new Set());
      if (first) {
        this.focus(first.row.id);
      }
    });
    this.body.addEventListener('click', (event) => {
      this.click(event);
    });
    this.body.addEventListener('keydown', (event) => {
      this.key(event);
    });
    this.body.addEventListener('focusin', (event) => {
      const id = this.idOf(event.target);
      if (id !== undefined && id !== this.selected && !this.quiet) {
        this.events.select(id);
      }
    });
    this.element.append(table, this.more);
  }

  /** Show these lines; those of `fresh` flash once. */
  show(lines: readonly Line[], fresh: ReadonlySet<string>): void {
    const focused = this.idOf(document.activeElement);
    this.lines = lines;
    this.rows.clear();
    const drawn = lines.slice(0, this.limit).map((line) => {
      const element = this.draw(line, fresh.has(line.row.id));
      this.rows.set(line.row.id, element);
      return element;
    });
    this.body.replaceChildren(...drawn);
    if (drawn.length === 0) {
      const span = this.shown.filter(Boolean).length;
      const say =
        this.picture.rows.length === 0 ? 'Nothing to show.' : 'No row matches the filter.';
      this.body.append(
        html(
          'tr',
          { role: 'row' },
          html('td', { role: 'gridcell', colspan: span, class: 'ctrt-say' }, say),
        ),
      );
    }
    const hidden = Math.max(0, lines.length - this.limit);
    this.more.hidden = hidden === 0;
    this.more.textContent = `Show ${String(Math.min(hidden, PAGE))} of ${String(hidden)} more rows`;
    this.mark();
    if (focused !== undefined) {
      this.hold(this.rows.has(focused) ? focused : this.selected);
    }
  }

  select(id: string): void {
    this.selected = id;
    this.mark();
    this.reveal(this.rows.get(id));
  }

  /** Move the keyboard to a row, or to the selected one, or to the first. */
  focus(id = this.selected, preventScroll = false): boolean {
    const target = this.rows.get(id) ?? this.rows.values().next().value;
    target?.focus({ preventScroll });
    return target !== undefined;
  }

  /** Keep the focus where it is, or near, after a new drawing: nothing is selected by that. */
  hold(id = this.selected): void {
    this.quiet = true;
    this.focus(id, true);
    this.quiet = false;
  }

  /** Scroll the table, never the page: what the reader looks at stays where it is. */
  private reveal(row: HTMLElement | undefined): void {
    if (row) {
      const head = this.element.querySelector('thead')?.getBoundingClientRect().height ?? 0;
      const frame = this.element.getBoundingClientRect();
      const { top, bottom } = row.getBoundingClientRect();
      if (top < frame.top + head) {
        this.element.scrollTop -= frame.top + head - top;
      } else if (bottom > frame.bottom) {
        this.element.scrollTop += bottom - frame.bottom;
      }
    }
  }

  /** One row is in the tab order: the selected one, else the first. */
  private mark(): void {
    const entry = this.rows.has(this.selected) ? this.selected : this.lines[0]?.row.id;
    for (const [id, element] of this.rows) {
      element.setAttribute('aria-selected', String(id === this.selected));
      element.setAttribute('tabindex', id === entry ? '0' : '-1');
    }
  }

  private draw(line: Line, fresh: boolean): HTMLTableRowElement {
    const { row } = line;
    const element = html('tr', {
      role: 'row',
      class: classes(
        'ctrt-line',
        kindClass(row.kind),
        diffClass(row.diff),
        !line.matches && 'ctrt-dim',
        fresh && 'ctrt-flash',
      ),
      'aria-level': line.level,
      'aria-posinset': line.position,
      'aria-setsize': line.size,
      'aria-expanded': line.hasChildren ? String(line.expanded) : null,
      'data-id': row.id,
    });
    const [name = '', ...others] = row.cells;
    const tree = html(
      'td',
      { role: 'gridcell' },
      html(
        'div',
        { class: 'ctrt-tree' },
        html('span', { class: 'ctrt-fold', 'aria-hidden': 'true' }, line.hasChildren ? '▸' : ''),
        html(
          'span',
          {
            class: 'ctrt-badge',
            'aria-hidden': 'true',
            title: kindName(row.kind, this.picture.view),
          },
          this.icons.get(row.kind) ?? '',
        ),
        row.diff === ''
          ? null
          : html(
              'span',
              { class: 'ctrt-mark', role: 'img', 'aria-label': DIFF_NAMES.get(row.diff) ?? '' },
              row.diff,
            ),
        html('span', { class: 'ctrt-name', title: name }, name),
        row.count > 1 && !name.includes(`×${String(row.count)}`)
          ? html('span', { class: 'ctrt-count' }, `×${String(row.count)}`)
          : null,
      ),
    );
    tree.style.setProperty('--ctrt-level', String(line.level - 1));
    element.append(tree);
    others.forEach((cell, i) => {
      if (this.shown[i + 1]) {
        element.append(html('td', { role: 'gridcell', title: cell }, cell));
      }
    });
    return element;
  }

  private idOf(target: EventTarget | null): string | undefined {
    return target instanceof Element && this.body.contains(target)
      ? target.closest<HTMLElement>('tr[data-id]')?.dataset.id
      : undefined;
  }

  private lineOf(id: string | undefined): Line | undefined {
    return this.lines.find((line) => line.row.id === id);
  }

  private click(event: MouseEvent): void {
    const line = this.lineOf(this.idOf(event.target));
    if (!line) {
      return;
    }
    this.focus(line.row.id, true);
    const onFold = event.target instanceof Element && event.target.closest('.ctrt-fold') !== null;
    if (onFold && line.hasChildren && !line.held) {
      this.events.fold(line.row.id, line.expanded);
    } else {
      this.events.open(line.row.id);
    }
  }

  private key(event: KeyboardEvent): void {
    const line = this.lineOf(this.idOf(event.target));
    if (!line || !plainKey(event) || scrolledAside(event, this.element)) {
      return;
    }
    const at = this.lines.indexOf(line);
    const go = (to: Line | undefined): void => {
      if (to) {
        this.focus(to.row.id);
      }
    };
    switch (event.key) {
      case 'ArrowDown':
        go(this.lines[at + 1]);
        break;
      case 'ArrowUp':
        go(this.lines[at - 1]);
        break;
      case 'Home':
        go(this.lines[0]);
        break;
      case 'End':
        go(this.lines[Math.min(this.lines.length, this.limit) - 1]);
        break;
      case 'ArrowRight':
        if (line.hasChildren && !line.expanded) {
          this.events.fold(line.row.id, false);
        } else if (line.hasChildren) {
          go(this.lines[at + 1]);
        }
        break;
      case 'ArrowLeft':
        if (line.expanded && !line.held) {
          this.events.fold(line.row.id, true);
        } else {
          go(this.lineOf(line.row.parent ?? undefined));
        }
        break;
      case 'Enter':
      case 'e':
        this.events.open(line.row.id);
        break;
      default:
        return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}

/** Ids of the rows that are new or say something else than before. */
export function changed(before: Picture, after: Picture): ReadonlySet<string> {
  const said = (row: Picture['rows'][number]): string =>
    JSON.stringify([row.parent, row.cells, row.diff, row.count]);
  const old = new Map(before.rows.map((row) => [row.id, said(row)]));
  return new Set(after.rows.filter((row) => old.get(row.id) !== said(row)).map((row) => row.id));
}
