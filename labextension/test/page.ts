/** A page without a browser, and a small picture to draw on it. */

import { Window } from 'happy-dom';

const page = new Window();
for (const name of [
  'document',
  'Element',
  'HTMLElement',
  'Event',
  'KeyboardEvent',
  'MouseEvent',
] as const) {
  Object.defineProperty(globalThis, name, { value: page[name], configurable: true });
}

type Json = Record<string, unknown>;

/** JSON of a picture, with other members where a test needs them. */
export function picture(others: Json = {}): Json {
  return {
    version: 1,
    view: 'namespaces',
    title: 'Container busybox',
    description: 'A user namespace with a process.',
    width: 400,
    height: 200,
    columns: [
      { key: 'name', title: 'Namespace' },
      { key: 'what', title: 'What' },
    ],
    rows: [
      row('user:host', null, 'user', ['user[host]', 'initial']),
      row('net:host', 'user:host', 'net', ['net[host]', 'initial']),
      row('user:1', 'user:host', 'user', ['user[1]', '0..65535']),
      row('process:1', 'user:1', 'process', ['sh', 'pid 1 inside']),
    ],
    nodes: [
      node('user:host', null, 'user', 'container', { border: 'dashed', label: 'user[host]' }),
      node('net:host', 'user:host', 'net', 'pill', { label: 'net[host]' }),
      node('user:1', 'user:host', 'user', 'container', { border: 'double', label: 'user[1]' }),
      node('process:1', 'user:1', 'process', 'chip', { label: 'sh', sub: 'pid 1 inside' }),
    ],
    edges: [
      {
        from: 'process:1',
        to: 'net:host',
        kind: 'join',
        points: [
          [1, 2],
          [31, 42],
        ],
        arrow: 'both',
        dash: true,
      },
    ],
    details: {
      'user:1': {
        meaning: 'Root in here is nobody outside.',
        raw: [{ path: '/proc/PID/uid_map', line: '0 524288 65536' }],
        man: 'user_namespaces(7)',
        command: 'lsns -t user',
      },
    },
    ...others,
  };
}

export function row(
  id: string,
  parent: string | null,
  kind: string,
  cells: string[],
  others: Json = {},
): Json {
  return { id, parent, kind, cells, diff: '', count: 1, ...others };
}

export function node(
  id: string,
  parent: string | null,
  kind: string,
  shape: string,
  others: Json = {},
): Json {
  return {
    id,
    parent,
    kind,
    shape,
    x: 10,
    y: 10,
    w: 100,
    h: 32,
    icon: '',
    code: '',
    label: id,
    sub: '',
    border: 'solid',
    diff: '',
    ...others,
  };
}

/** An element in the page to draw into. */
export function place(): HTMLElement {
  const element = document.createElement('div');
  document.body.replaceChildren(element);
  return element;
}

export function find(root: Element, selector: string): HTMLElement {
  const found = root.querySelector<HTMLElement>(selector);
  if (!found) {
    throw new Error(`nothing matches ${selector}`);
  }
  return found;
}

export function field(root: Element): HTMLInputElement {
  return find(root, 'input') as HTMLInputElement;
}

/** Press a key where the focus is; true when nobody took it. */
export function press(key: string, others: KeyboardEventInit = {}): boolean {
  const event = new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true, ...others });
  return (document.activeElement ?? document.body).dispatchEvent(event);
}
