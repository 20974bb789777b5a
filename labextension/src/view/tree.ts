/**
 * The rows as a tree that folds and filters, without a page.
 *
 * A filter wins over folding: what it finds is shown together with everything above it, so that
 * a match is never hidden and never without its place.
 */

import type { Row } from './picture.js';
import { kindName } from './kinds.js';

/** A row as it stands on the screen. Level, position and size count from 1, as ARIA does. */
export interface Line {
  readonly row: Row;
  readonly level: number;
  readonly position: number;
  readonly size: number;
  readonly hasChildren: boolean;
  readonly expanded: boolean;
  /** Held open by a filter. */
  readonly held: boolean;
  /** False for a row that is here only because something below it matches. */
  readonly matches: boolean;
}

/** With more rows than this the tree starts folded below its first level. */
export const OPEN_ROWS = 200;

export function words(filter: string): readonly string[] {
  return filter.toLowerCase().split(/\s+/).filter(Boolean);
}

/** True when every word occurs somewhere in the texts. */
export function matches(wanted: readonly string[], ...texts: readonly string[]): boolean {
  const haystack = texts.join('\n').toLowerCase();
  return wanted.every((word) => haystack.includes(word));
}

export class Tree {
  private readonly byId = new Map<string, Row>();
  private readonly children = new Map<string | null, Row[]>();
  private folded = new Set<string>();

  constructor(
    rows: readonly Row[],
    private readonly view = '',
  ) {
    for (const row of rows) {
      this.byId.set(row.id, row);
      const siblings = this.children.get(row.parent);
      if (siblings) {
        siblings.push(row);
      } else {
        this.children.set(row.parent, [row]);
      }
    }
    if (rows.length > OPEN_ROWS) {
      this.folded = new Set(rows.filter((row) => row.parent !== null).map((row) => row.id));
    }
  }

  get(id: string): Row | undefined {
    return this.byId.get(id);
  }

  /** Folds of an earlier tree, for rows that are still there. */
  adopt(earlier: Tree): void {
    for (const id of this.byId.keys()) {
      if (earlier.byId.has(id)) {
        this.fold(id, earlier.folded.has(id));
      }
    }
  }

  fold(id: string, folded: boolean): void {
    if (folded) {
      this.folded.add(id);
    } else {
      this.folded.delete(id);
    }
  }

  /** Unfold everything above a row, so that it can be seen. */
  reveal(id: string): void {
    for (let row = this.byId.get(id); row?.parent != null; row = this.byId.get(row.parent)) {
      this.folded.delete(row.parent);
    }
  }

  /** Ids of the rows that match every word; null when there is no word to match. */
  matching(filter: string): ReadonlySet<string> | null {
    const wanted = words(filter);
    if (wanted.length === 0) {
      return null;
    }
    const found = new Set<string>();
    for (const { id, kind, diff, cells } of this.byId.values()) {
      if (matches(wanted, kind, kindName(kind, this.view), diff, ...cells)) {
        found.add(id);
      }
    }
    return found;
  }

  /** The lines to show, top to bottom. */
  lines(matching: ReadonlySet<string> | null = null): Line[] {
    const kept = matching && this.withAncestors(matching);
    const lines: Line[] = [];
    const walk = (parent: string | null, level: number): void => {
      const rows = (this.children.get(parent) ?? []).filter((row) => !kept || kept.has(row.id));
      rows.forEach((row, i) => {
        const below = this.children.get(row.id) ?? [];
        const hasChildren = kept ? below.some((each) => kept.has(each.id)) : below.length > 0;
        const expanded = hasChildren && (kept !== null || !this.folded.has(row.id));
        lines.push({
          row,
          level,
          position: i + 1,
          size: rows.length,
          hasChildren,
          expanded,
          held: expanded && kept !== null,
          matches: !matching || matching.has(row.id),
        });
        if (expanded) {
          walk(row.id, level + 1);
        }
      });
    };
    walk(null, 1);
    return lines;
  }

  private withAncestors(found: ReadonlySet<string>): Set<string> {
    const kept = new Set(found);
    for (const id of found) {
      for (let row = this.byId.get(id); row?.parent != null; row = this.byId.get(row.parent)) {
        kept.add(row.parent);
      }
    }
    return kept;
  }
}
