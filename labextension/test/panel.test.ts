import assert from 'node:assert/strict';
import test from 'node:test';
import { find, place } from './page.js';
import { WorldList, type Hands } from '../src/panel/list.js';
import { Line, readWorld, size, type World } from '../src/panel/world.js';

const CONTAINER = { name: 'anna', image: 'busybox', command: 'sleep 9', pid: 7, output: true };

function hands(others: Partial<Hands> = {}): Hands {
  const nothing = (): void => undefined;
  return {
    do: () => Promise.resolve(''),
    sure: () => Promise.resolve(true),
    view: nothing,
    output: nothing,
    terminal: () => Promise.resolve(),
    more: nothing,
    load: nothing,
    ...others,
  };
}

function shown(world: unknown, others: Partial<Hands> = {}): WorldList {
  const list = new WorldList(hands(others));
  place().append(list.node);
  list.show(readWorld(world));
  return list;
}

test('a world is read with care', () => {
  const empty: World = { containers: [], sandboxes: [], ended: [], images: [], error: '' };
  for (const odd of [null, 1, 'x', [], { containers: 'x', images: { a: 1 } }]) {
    assert.deepEqual(readWorld(odd), empty);
  }
  assert.deepEqual(readWorld({ containers: [CONTAINER] }).containers, [CONTAINER]);
  assert.equal(readWorld({ containers: [{ name: 5 }] }).containers[0]?.name, '');
});

test('names are text, never markup', () => {
  const list = shown({ containers: [{ ...CONTAINER, name: '<img src=x>' }] });
  assert.equal(list.node.querySelector('img'), null);
  assert.equal(find(list.node, '.ctrt-world-name').textContent, '<img src=x>');
});

test('a press on a button does what it says', async () => {
  const done: string[] = [];
  const list = shown(
    { containers: [CONTAINER], images: [{ name: 'busybox', size: 1_500_000 }] },
    {
      do: (action, name) => {
        done.push(`${action} ${name}`);
        return name === 'busybox' ? Promise.reject(new Error('in use')) : Promise.resolve('');
      },
      view: (words) => done.push(words.join(' ')),
      terminal: (name) => Promise.reject(new Error(`no terminal in ${name}`)),
    },
  );
  find(list.node, '[data-key="Graph anna"]').click();
  find(list.node, '[data-key="Stop anna"]').click();
  await new Promise((resolve) => setTimeout(resolve, 0));
  find(list.node, '[data-key="Layers busybox"]').click();
  find(list.node, '[data-key="Network of the machine"]').click();
  find(list.node, '[data-key="Remove busybox"]').click();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.deepEqual(done, [
    'container anna',
    'stop anna',
    'image busybox',
    'network',
    'remove busybox',
  ]);
  assert.equal(find(list.node, '[role=status]').textContent, 'in use');
  find(list.node, '[data-key="Terminal anna"]').click();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(find(list.node, '[role=status]').textContent, 'no terminal in anna');
});

test('what has ended can be read, and forgotten', async () => {
  const done: string[] = [];
  const list = shown(
    { ended: [{ name: 'otto', image: 'busybox', how: 'ended with status 3' }] },
    {
      do: (action, name) => {
        done.push(`${action} ${name}`);
        return Promise.resolve('');
      },
      output: (name) => done.push(`output ${name}`),
    },
  );
  assert.match(list.node.textContent, /ended with status 3 · busybox/);
  assert.equal(list.node.querySelector('[data-key="Stop otto"]'), null);
  find(list.node, '[data-key="Output otto"]').click();
  find(list.node, '[data-key="Forget otto"]').click();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.deepEqual(done, ['output otto', 'forget otto']);
});

test('what is lost is asked about, and not done without a yes', async () => {
  const asked: string[] = [];
  const done: string[] = [];
  let answer = false;
  const list = shown(
    {
      containers: [CONTAINER],
      images: [{ name: 'busybox', size: 1 }],
      ended: [{ name: 'otto', image: 'busybox', how: 'ended' }],
    },
    {
      do: (action, name) => {
        done.push(`${action} ${name}`);
        return Promise.resolve('');
      },
      sure: ({ title, yes }) => {
        asked.push(`${title} ${yes}`);
        return Promise.resolve(answer);
      },
    },
  );
  for (const key of ['Stop anna', 'Remove busybox', 'Forget otto']) {
    find(list.node, `[data-key="${key}"]`).click();
  }
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.deepEqual(asked, [
    'Stop anna? Stop',
    'Remove the image busybox? Remove',
    'Forget otto? Forget',
  ]);
  assert.deepEqual(done, []);
  answer = true;
  await list.do('remove', 'busybox');
  await list.do('pull', 'busybox');
  assert.deepEqual(done, ['remove busybox', 'pull busybox']);
  assert.equal(asked.length, 4);
});

test('a pull has a bar', () => {
  const list = shown({});
  list.progress('debian', 500_000, 1_000_000);
  const bar = find(list.node, 'progress');
  assert.equal(bar.getAttribute('value'), '500000');
  assert.match(list.node.textContent, /debian: 500.0 kB of 1.0 MB/);
  assert.equal(size(999), '999 B');
});

test('orders are answered by their number, and lost with the kernel', async () => {
  const sent: unknown[] = [];
  const line = new Line(
    { send: (data) => sent.push(data), close: () => undefined },
    { world: () => undefined, picture: () => undefined, progress: () => undefined },
  );
  const first = line.do('stop', 'a');
  const second = line.do('stop', 'b');
  const third = line.do('stop', 'c');
  line.receive({ type: 'done', id: 2, error: 'no b' });
  line.receive({ type: 'done', id: 1, text: 'a' });
  assert.equal(await first, 'a');
  await assert.rejects(second, /no b/);
  line.lost();
  await assert.rejects(third, /ended/);
  assert.deepEqual(sent[0], { type: 'do', id: 1, action: 'stop', name: 'a' });
});
