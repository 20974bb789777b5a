/**
 * The picture: what `ctrt/draw` computed and this view shows.
 *
 * It arrives as JSON in a notebook that nobody may have trusted, so nothing is taken on faith:
 * `parse` copies it, member by member, into the types below or says in one sentence what is
 * wrong. After that the rest of the code need not doubt.
 */

export type Diff = '' | '+' | '~' | '-';
export type Border = 'solid' | 'dashed' | 'double' | 'dotted';
export type Arrow = 'none' | 'end' | 'both';
export type Point = readonly [number, number];

export interface Column {
  readonly key: string;
  readonly title: string;
}

export interface Row {
  readonly id: string;
  readonly parent: string | null;
  readonly kind: string;
  readonly cells: readonly string[];
  readonly diff: Diff;
  /** How many identical things this row stands for. */
  readonly count: number;
}

/** A further column of a shape that is a line of a table: a text, or a mark with its own sign. */
export interface Cell {
  /** Absolute, as all coordinates. */
  readonly x: number;
  readonly text: string;
  readonly mark: string;
}

/** A shape of the graph; absolute coordinates in user units, parents before their children. */
export interface Node {
  readonly id: string;
  readonly parent: string | null;
  readonly kind: string;
  readonly shape: string;
  readonly x: number;
  readonly y: number;
  readonly w: number;
  readonly h: number;
  readonly icon: string;
  readonly code: string;
  readonly label: string;
  readonly sub: string;
  readonly border: Border;
  readonly diff: Diff;
  /** Over-mounted: there, but out of reach. */
  readonly strike: boolean;
  readonly cells: readonly Cell[];
}

export interface Edge {
  readonly from: string;
  readonly to: string;
  readonly kind: string;
  readonly points: readonly Point[];
  readonly arrow: Arrow;
  readonly dash: boolean;
}

export interface RawLine {
  readonly path: string;
  readonly line: string;
}

export interface Detail {
  readonly meaning: string;
  readonly raw: readonly RawLine[];
  readonly man: string;
  readonly command: string;
}

export interface Picture {
  readonly view: string;
  readonly title: string;
  readonly description: string;
  readonly width: number;
  readonly height: number;
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
  readonly nodes: readonly Node[];
  readonly edges: readonly Edge[];
  readonly details: ReadonlyMap<string, Detail>;
}

/** A picture that cannot be drawn; the message is one sentence for the reader. */
export class PictureError extends Error {}

/** Far above what a picture needs, far below what would hang a browser tab. */
export const LIMITS = {
  columns: 12,
  rows: 20_000,
  nodes: 5_000,
  edges: 5_000,
  points: 200,
  raw: 100,
  /** Rows, or shapes, inside one another. */
  depth: 64,
  /** Characters of one text; what is longer is cut. */
  text: 4_000,
  /** User units of one coordinate. */
  extent: 100_000,
} as const;

type Dict = Readonly<Record<string, unknown>>;

function refuse(place: string, expected: string): never {
  throw new PictureError(`This picture cannot be drawn: ${place} should be ${expected}.`);
}

function dict(value: unknown, place: string): Dict {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    refuse(place, 'an object');
  }
  return value as Dict;
}

function list(value: unknown, place: string, limit: number): readonly unknown[] {
  if (!Array.isArray(value)) {
    refuse(place, 'a list');
  }
  if (value.length > limit) {
    refuse(place, `at most ${String(limit)} long`);
  }
  return value;
}

function text(value: unknown, place: string): string {
  if (typeof value !== 'string') {
    refuse(place, 'a text');
  }
  return value.length > LIMITS.text ? `${value.slice(0, LIMITS.text)}…` : value;
}

function optionalText(value: unknown, place: string): string {
  return value === undefined || value === null ? '' : text(value, place);
}

/** Ids are compared, not shown: a long one is refused, since two that are cut could meet. */
function id(value: unknown, place: string): string {
  if (typeof value !== 'string' || value === '' || value.length > LIMITS.text) {
    refuse(place, 'a text that is not empty');
  }
  return value;
}

function number(value: unknown, place: string, low: number, high: number): number {
  if (typeof value !== 'number' || !(value >= low && value <= high)) {
    refuse(place, `a number from ${String(low)} to ${String(high)}`);
  }
  return value;
}

function flag(value: unknown, place: string): boolean {
  if (value !== undefined && typeof value !== 'boolean') {
    refuse(place, 'true or false');
  }
  return value === true;
}

function oneOf<T extends string>(
  value: unknown,
  place: string,
  choices: readonly T[],
  missing: T,
): T {
  const found = value ?? missing;
  const choice = choices.find((each) => each === found);
  return choice ?? refuse(place, `one of ${choices.map((each) => `"${each}"`).join(', ')}`);
}

const DIFFS: readonly Diff[] = ['', '+', '~', '-'];
const BORDERS: readonly Border[] = ['solid', 'dashed', 'double', 'dotted'];
const ARROWS: readonly Arrow[] = ['none', 'end', 'both'];

/** The depth of each id so far. */
type Depths = Map<string, number>;

/** Ids are unique and a parent stands before its children, so a walk needs no look ahead. */
function family(item: Dict, place: string, depths: Depths): [string, string | null] {
  const own = id(item.id, `${place}.id`);
  if (depths.has(own)) {
    refuse(`${place}.id`, 'used once');
  }
  const above = item.parent;
  const parent = above === undefined || above === null ? null : id(above, `${place}.parent`);
  const outer = parent === null ? 0 : depths.get(parent);
  if (outer === undefined) {
    refuse(`${place}.parent`, 'the id of one that stands before it');
  }
  if (outer >= LIMITS.depth) {
    refuse(`${place}.parent`, `less than ${String(LIMITS.depth)} deep`);
  }
  depths.set(own, outer + 1);
  return [own, parent];
}

function parseColumn(value: unknown, place: string): Column {
  const item = dict(value, place);
  return { key: text(item.key, `${place}.key`), title: text(item.title, `${place}.title`) };
}

function parseRow(value: unknown, place: string, depths: Depths, width: number): Row {
  const item = dict(value, place);
  const [own, parent] = family(item, place, depths);
  const cells = list(item.cells, `${place}.cells`, LIMITS.columns);
  if (cells.length !== width) {
    refuse(`${place}.cells`, `as long as columns (${String(width)})`);
  }
  return {
    id: own,
    parent,
    kind: text(item.kind, `${place}.kind`),
    cells: cells.map((cell, i) => text(cell, `${place}.cells[${String(i)}]`)),
    diff: oneOf(item.diff, `${place}.diff`, DIFFS, ''),
    count: number(item.count ?? 1, `${place}.count`, 1, Number.MAX_SAFE_INTEGER),
  };
}

function parseCell(value: unknown, place: string): Cell {
  const item = dict(value, place);
  return {
    x: number(item.x, `${place}.x`, -LIMITS.extent, LIMITS.extent),
    text: optionalText(item.text, `${place}.text`),
    mark: optionalText(item.mark, `${place}.mark`),
  };
}

function parseNode(value: unknown, place: string, depths: Depths): Node {
  const item = dict(value, place);
  const [own, parent] = family(item, place, depths);
  const { extent } = LIMITS;
  return {
    id: own,
    parent,
    kind: text(item.kind, `${place}.kind`),
    shape: text(item.shape, `${place}.shape`),
    x: number(item.x, `${place}.x`, -extent, extent),
    y: number(item.y, `${place}.y`, -extent, extent),
    w: number(item.w, `${place}.w`, 0, extent),
    h: number(item.h, `${place}.h`, 0, extent),
    icon: optionalText(item.icon, `${place}.icon`),
    code: optionalText(item.code, `${place}.code`),
    label: optionalText(item.label, `${place}.label`),
    sub: optionalText(item.sub, `${place}.sub`),
    border: oneOf(item.border, `${place}.border`, BORDERS, 'solid'),
    diff: oneOf(item.diff, `${place}.diff`, DIFFS, ''),
    strike: flag(item.strike, `${place}.strike`),
    cells: list(item.cells ?? [], `${place}.cells`, LIMITS.columns).map((each, i) =>
      parseCell(each, `${place}.cells[${String(i)}]`),
    ),
  };
}

function parsePoint(value: unknown, place: string): Point {
  const pair = list(value, place, 2);
  const { extent } = LIMITS;
  return [
    number(pair[0], `${place}[0]`, -extent, extent),
    number(pair[1], `${place}[1]`, -extent, extent),
  ];
}

function parseEdge(value: unknown, place: string, nodes: Depths): Edge {
  const item = dict(value, place);
  const end = (key: 'from' | 'to'): string => {
    const found = id(item[key], `${place}.${key}`);
    return nodes.has(found) ? found : refuse(`${place}.${key}`, 'the id of a node');
  };
  const points = list(item.points, `${place}.points`, LIMITS.points);
  if (points.length < 2) {
    refuse(`${place}.points`, 'at least 2 long');
  }
  return {
    from: end('from'),
    to: end('to'),
    kind: optionalText(item.kind, `${place}.kind`),
    points: points.map((point, i) => parsePoint(point, `${place}.points[${String(i)}]`)),
    arrow: oneOf(item.arrow, `${place}.arrow`, ARROWS, 'none'),
    dash: flag(item.dash, `${place}.dash`),
  };
}

function parseDetail(value: unknown, place: string): Detail {
  const item = dict(value, place);
  const raw = list(item.raw ?? [], `${place}.raw`, LIMITS.raw);
  return {
    meaning: optionalText(item.meaning, `${place}.meaning`),
    raw: raw.map((entry, i) => {
      const where = `${place}.raw[${String(i)}]`;
      const line = dict(entry, where);
      return {
        path: text(line.path, `${where}.path`),
        line: text(line.line, `${where}.line`),
      };
    }),
    man: optionalText(item.man, `${place}.man`),
    command: optionalText(item.command, `${place}.command`),
  };
}

/**
 * The checked copy of a picture's JSON.
 *
 * @throws PictureError naming the first member that is not as the format has it.
 */
export function parse(value: unknown): Picture {
  const top = dict(value, 'it');
  if (top.version !== 1) {
    throw new PictureError(
      'This picture cannot be drawn: it is not of format version 1, the one that this viewer knows.',
    );
  }
  const columns = list(top.columns, 'columns', LIMITS.columns).map((each, i) =>
    parseColumn(each, `columns[${String(i)}]`),
  );
  if (columns.length === 0) {
    refuse('columns', 'at least 1 long');
  }
  const rowIds: Depths = new Map();
  const rows = list(top.rows, 'rows', LIMITS.rows).map((each, i) =>
    parseRow(each, `rows[${String(i)}]`, rowIds, columns.length),
  );
  const nodeIds: Depths = new Map();
  const nodes = list(top.nodes, 'nodes', LIMITS.nodes).map((each, i) =>
    parseNode(each, `nodes[${String(i)}]`, nodeIds),
  );
  const edges = list(top.edges, 'edges', LIMITS.edges).map((each, i) =>
    parseEdge(each, `edges[${String(i)}]`, nodeIds),
  );
  const details = new Map<string, Detail>();
  const entries = Object.entries(dict(top.details ?? {}, 'details'));
  for (const [key, detail] of list(entries, 'details', LIMITS.rows) as [string, unknown][]) {
    // An id may be anything that a kernel prints: a Map, since an object has keys of its own.
    details.set(key, parseDetail(detail, `details["${key.slice(0, 40)}"]`));
  }
  return {
    view: optionalText(top.view, 'view'),
    title: text(top.title, 'title'),
    description: optionalText(top.description, 'description'),
    width: number(top.width, 'width', 1, LIMITS.extent),
    height: number(top.height, 'height', 1, LIMITS.extent),
    columns,
    rows,
    nodes,
    edges,
    details,
  };
}
