import assert from 'node:assert/strict';
import test from 'node:test';
import { draw } from '../src/view/view.js';
import { manAddress } from '../src/view/drawer.js';
import { MAX_SHAPES } from '../src/view/graph.js';
import { PAGE } from '../src/view/table.js';
import { field, find, node, picture, place, press, row } from './page.js';

function selectedRow(el: Element): string | undefined {
  return el.querySelector<HTMLElement>('tr[aria-selected="true"]')?.dataset.id;
}

function pressed(el: Element): string | null | undefined {
  return el.querySelector('.ctrt-graph [aria-pressed="true"]')?.getAttribute('aria-label');
}

function shape(el: Element, words: string): HTMLElement {
  return find(el, `.ctrt-graph [aria-label*="${words}"]`);
}

function drawer(el: Element): HTMLElement {
  return find(el, '.ctrt-drawer');
}

test('rows and shapes are drawn', () => {
  const el = place();
  draw(picture(), el);
  assert.equal(el.querySelectorAll('tr[data-id]').length, 4);
  assert.equal(el.querySelectorAll('.ctrt-graph .ctrt-button').length, 4);
  assert.equal(el.querySelectorAll('.ctrt-edge polygon').length, 2);
  const table = find(el, '[role="treegrid"]');
  assert.equal(table.getAttribute('aria-label'), 'Container busybox');
  assert.match(find(el, 'svg desc').textContent, /A user namespace/);
});

test('a drawing that is but a list is not shown beside the table', () => {
  const rows = [row('a', null, 'note', ['a', '1']), row('b', 'a', 'note', ['b', '2'])];
  const nodes = [
    node('head', null, 'note', 'text', { code: 'head' }),
    node('a', null, 'note', 'row'),
    node('b', null, 'note', 'row', { cells: [{ x: 60, text: '2', mark: '' }] }),
  ];
  const lists = (others: Record<string, unknown>): boolean => {
    const el = place();
    draw(picture({ rows, nodes, edges: [], ...others }), el);
    assert.equal(el.querySelectorAll('tr[data-id]').length > 0, true);
    return el.querySelector('.ctrt-list') !== null;
  };
  assert.equal(lists({}), true);
  assert.equal(lists({ nodes: [...nodes, node('c', null, 'net', 'pill')] }), false);
  assert.equal(lists({ nodes: [...nodes, node('note', null, 'note', 'text')] }), false);
  const marked = node('b', null, 'note', 'row', { cells: [{ x: 60, text: '', mark: 'on' }] });
  assert.equal(lists({ nodes: [nodes[0], nodes[1], marked] }), false);
  assert.equal(
    lists({ nodes: [nodes[0], node('a', null, 'note', 'row', { strike: true })] }),
    false,
  );
});

test('borders are told in words too', () => {
  const el = place();
  draw(picture(), el);
  assert.match(shape(el, 'user[host]').getAttribute('aria-label') ?? '', /initial/);
  assert.match(shape(el, 'user[1]').getAttribute('aria-label') ?? '', /less privileged/);
});

test('a click on a shape selects its row and opens the drawer', () => {
  const el = place();
  const told: string[] = [];
  draw(picture(), el, { onSelect: (id) => told.push(id) });
  shape(el, 'user[1]').dispatchEvent(new MouseEvent('click', { bubbles: true }));
  assert.equal(selectedRow(el), 'user:1');
  assert.deepEqual(told, ['user:1']);
  assert.equal(drawer(el).hidden, false);
  const text = drawer(el).textContent;
  for (const part of ['Root in here', '/proc/PID/uid_map', '0 524288 65536', 'lsns -t user']) {
    assert.ok(text.includes(part), part);
  }
});

test('a click on a row selects its shape', () => {
  const el = place();
  draw(picture(), el);
  find(el, 'tr[data-id="net:host"]').click();
  assert.match(pressed(el) ?? '', /net\[host\]/);
});

test('the keyboard alone walks, folds, opens and closes', () => {
  const el = place();
  draw(picture(), el);
  find(el, 'tr[tabindex="0"]').focus();
  assert.equal(selectedRow(el), 'user:host');
  press('ArrowDown');
  press('ArrowDown');
  assert.equal(selectedRow(el), 'user:1');
  press('ArrowLeft');
  assert.equal(find(el, 'tr[data-id="user:1"]').getAttribute('aria-expanded'), 'false');
  assert.equal(el.querySelector('tr[data-id="process:1"]'), null);
  press('ArrowRight');
  press('End');
  assert.equal(selectedRow(el), 'process:1');
  press('ArrowLeft');
  assert.equal(selectedRow(el), 'user:1');
  press('Enter');
  assert.equal(drawer(el).hidden, false);
  press('Home');
  assert.match(drawer(el).textContent, /user\[host\]/);
  press('Escape');
  assert.equal(drawer(el).hidden, true);
  assert.equal(document.activeElement, find(el, 'tr[data-id="user:host"]'));
});

test('g goes to the graph and back, arrows walk in it', () => {
  const el = place();
  draw(picture(), el);
  find(el, 'tr[data-id="user:host"]').focus();
  press('g');
  assert.equal(document.activeElement, shape(el, 'user[host]'));
  press('ArrowDown');
  assert.equal(selectedRow(el), 'net:host');
  press('ArrowRight');
  press('ArrowRight');
  assert.equal(selectedRow(el), 'process:1');
  press('ArrowUp');
  assert.equal(selectedRow(el), 'user:1');
  press('g');
  assert.equal(document.activeElement, find(el, 'tr[data-id="user:1"]'));
});

test('/ filters rows and dims shapes, Escape ends it', () => {
  const el = place();
  const told: string[] = [];
  draw(picture(), el, { onFilter: (text) => told.push(text) });
  find(el, 'tr[tabindex="0"]').focus();
  press('/');
  const input = field(el);
  assert.equal(document.activeElement, input);
  input.value = 'net';
  input.dispatchEvent(new Event('input', { bubbles: true }));
  assert.equal(find(el, '[role="status"]').textContent, '1 of 4 rows');
  assert.equal(el.querySelectorAll('tr[data-id]').length, 2);
  assert.ok(!shape(el, 'net[host]').classList.contains('ctrt-dim'));
  assert.ok(shape(el, 'user[1]').classList.contains('ctrt-dim'));
  press('Escape');
  assert.equal(input.value, '');
  assert.equal(el.querySelectorAll('tr[data-id]').length, 4);
  assert.deepEqual(told, ['net', '']);
});

test('? shows the legend of what occurs, and takes it away', () => {
  const el = place();
  draw(picture(), el);
  find(el, 'tr[tabindex="0"]').focus();
  press('?');
  const text = find(el, '.ctrt-legend').textContent;
  assert.match(text, /network namespace/);
  assert.match(text, /less privileged than its origin/);
  assert.doesNotMatch(text, /cgroup|hexagon|could not be read/);
  press('?');
  assert.equal(el.querySelector('.ctrt-legend'), null);
});

test('single letters do not reach the notebook, shortcuts with modifiers do', () => {
  const el = place();
  draw(picture(), el);
  const heard: string[] = [];
  el.addEventListener('keydown', (event) => heard.push(event.key));
  find(el, 'tr[tabindex="0"]').focus();
  press('d');
  press('d');
  press('ArrowDown');
  press('s', { ctrlKey: true });
  press('Enter', { shiftKey: true });
  assert.deepEqual(heard, ['s', 'Enter']);
});

test('markup in a picture stays text', () => {
  const evil = ['<img src=x onerror=alert(1)>', '</svg><script>alert(1)</script>'] as const;
  const el = place();
  draw(
    picture({
      title: evil[1],
      description: evil[0],
      columns: [{ key: evil[0], title: evil[1] }],
      rows: [row(evil[0], null, evil[1], [evil[0]])],
      nodes: [
        node(evil[0], null, evil[1], evil[0], { label: evil[1], sub: evil[0], icon: evil[0] }),
      ],
      edges: [],
      details: {
        [evil[0]]: {
          meaning: evil[1],
          raw: [{ path: evil[0], line: evil[1] }],
          man: `javascript:alert(1)`,
          command: evil[0],
        },
      },
    }),
    el,
  );
  find(el, 'tr[data-id]').click();
  press('?');
  assert.equal(el.querySelector('img, script, iframe, a'), null);
  assert.ok(drawer(el).textContent.includes(evil[1]));
  assert.equal(find(el, 'h3').textContent, evil[1]);
});

test('only a man page becomes an address', () => {
  assert.equal(
    manAddress('user_namespaces(7)'),
    'https://man7.org/linux/man-pages/man7/user_namespaces.7.html',
  );
  for (const page of ['', 'javascript:alert(1)', '../x(7)', 'a/b(7)', 'x(77)', 'a(7) b']) {
    assert.equal(manAddress(page), null, page);
  }
});

test('what cannot be drawn leaves one sentence', () => {
  const el = place();
  const handle = draw({ version: 1 }, el);
  assert.match(find(el, '[role="alert"]').textContent, /^This picture cannot be drawn: .+\.$/);
  handle.update(picture());
  assert.equal(el.querySelector('[role="alert"]'), null);
  assert.equal(el.querySelectorAll('tr[data-id]').length, 4);
});

test('too many shapes are not drawn, and it is said', () => {
  const nodes = Array.from({ length: MAX_SHAPES + 1 }, (_, i) =>
    node(String(i), null, 'net', 'pill'),
  );
  const el = place();
  draw(picture({ nodes, edges: [] }), el);
  assert.equal(el.querySelector('svg'), null);
  assert.match(find(el, '.ctrt-graph').textContent, /301 shapes/);
});

test('a long table shows a page and more on demand', () => {
  const rows = Array.from({ length: PAGE + 20 }, (_, i) =>
    row(String(i), null, 'process', [String(i), '']),
  );
  const el = place();
  draw(picture({ rows, nodes: [], edges: [] }), el);
  assert.equal(el.querySelectorAll('tr[data-id]').length, PAGE);
  const more = find(el, '.ctrt-more');
  assert.equal(more.textContent, 'Show 20 of 20 more rows');
  more.click();
  assert.equal(el.querySelectorAll('tr[data-id]').length, PAGE + 20);
  assert.equal(more.hidden, true);
});

test('an update keeps selection, folds and filter, and flashes what is new', () => {
  const el = place();
  const handle = draw(picture(), el, { selected: 'net:host', filter: 'net' });
  assert.equal(selectedRow(el), 'net:host');
  handle.filter('');
  handle.update(
    picture({
      rows: [
        row('user:host', null, 'user', ['user[host]', 'initial']),
        row('net:host', 'user:host', 'net', ['net[host]', 'initial']),
        row('net:1', 'user:host', 'net', ['net[1]', ''], { diff: '+', count: 3 }),
      ],
    }),
  );
  assert.equal(selectedRow(el), 'net:host');
  const flashed = Array.from(
    el.querySelectorAll<HTMLElement>('.ctrt-flash'),
    (each) => each.dataset.id,
  );
  assert.deepEqual(flashed, ['net:1']);
  const added = find(el, 'tr[data-id="net:1"]');
  assert.equal(find(added, '.ctrt-mark').getAttribute('aria-label'), 'added');
  assert.match(added.textContent, /×3/);
});

test('an update takes the keyboard from nobody', () => {
  const el = place();
  const handle = draw(picture(), el);
  const filter = find(el, 'input');
  filter.focus();
  handle.update(picture({ title: 'Another' }));
  assert.equal(document.activeElement, filter);
});

test('the selection from outside is shown, not told back', () => {
  const el = place();
  const told: string[] = [];
  const handle = draw(picture(), el, { onSelect: (id) => told.push(id) });
  handle.select('process:1');
  assert.equal(selectedRow(el), 'process:1');
  assert.match(pressed(el) ?? '', /sh/);
  handle.select('no such thing');
  assert.equal(selectedRow(el), undefined);
  assert.deepEqual(told, []);
});

test('a further mark of a group is told as the group', () => {
  const el = place();
  draw(
    picture({
      nodes: [
        node('group:1', null, 'group', 'hexagon', { label: '1' }),
        node('group:1@mount:2', 'group:1', 'group', 'hexagon', { label: '1' }),
      ],
      edges: [],
      details: { 'group:1': { meaning: 'Peer group 1.', raw: [], man: '', command: '' } },
    }),
    el,
  );
  const second = el.querySelectorAll('.ctrt-graph .ctrt-button')[1];
  second?.dispatchEvent(new MouseEvent('click', { bubbles: true }));
  assert.match(drawer(el).textContent, /Peer group 1\./);
});

test('words of a drawing that answer nothing cannot be pressed', () => {
  const el = place();
  draw(
    picture({
      nodes: [
        node('title', null, 'note', 'text', { code: 'title', label: 'Container busybox' }),
        node('mounts:head:0', null, 'note', 'text', { code: 'head', label: 'Target', y: 60 }),
        node('mount:1', null, 'mount', 'row', {
          label: '/proc',
          y: 80,
          cells: [
            { x: 90, text: 'proc', mark: '' },
            { x: 95, text: '', mark: 'gained' },
          ],
        }),
      ],
      edges: [],
      details: { 'mount:1': { meaning: 'proc' } },
    }),
    el,
  );
  assert.equal(el.querySelectorAll('.ctrt-graph .ctrt-button').length, 1);
  assert.equal(el.querySelectorAll('.ctrt-graph text').length, 3);
  assert.equal(el.querySelectorAll('.ctrt-sign').length, 1);
  assert.equal(find(el, '.ctrt-graph svg').getAttribute('viewBox'), '0 50 400 150');
});

test('dispose leaves nothing', () => {
  const el = place();
  draw(picture(), el).dispose();
  assert.equal(el.childElementCount, 0);
});

test('Shift and an arrow scroll what is wider than its room, and walk nowhere', () => {
  const el = place();
  draw(picture(), el);
  for (const [start, room] of [
    ['tr[data-id="user:1"]', '.ctrt-table'],
    ['.ctrt-graph .ctrt-button', '.ctrt-graph'],
  ] as const) {
    find(el, start).focus();
    const before = selectedRow(el);
    assert.equal(press('ArrowRight', { shiftKey: true }), false);
    assert.ok(find(el, room).scrollLeft > 0);
    press('ArrowLeft', { shiftKey: true });
    assert.equal(find(el, room).scrollLeft, 0);
    assert.equal(selectedRow(el), before);
    assert.equal(find(el, 'tr[data-id="user:1"]').getAttribute('aria-expanded'), 'true');
  }
});
