import assert from 'node:assert/strict';
import test from 'node:test';
import { LIMITS, PictureError, parse } from '../src/view/picture.js';
import { node, picture, row } from './page.js';

function says(value: unknown, sentence: RegExp): void {
  assert.throws(
    () => parse(value),
    (error) => error instanceof PictureError && sentence.test(error.message),
  );
}

test('a picture is copied member by member', () => {
  const found = parse(picture());
  assert.equal(found.rows.length, 4);
  assert.equal(found.nodes[0]?.border, 'dashed');
  assert.deepEqual(found.edges[0]?.points, [
    [1, 2],
    [31, 42],
  ]);
  assert.equal(found.details.get('user:1')?.command, 'lsns -t user');
});

test('members that may be missing have a default', () => {
  const bare = { id: 'a', kind: 'net', shape: 'pill', x: 0, y: 0, w: 1, h: 1 };
  const found = parse(picture({ nodes: [bare], edges: [], details: undefined }));
  assert.equal(found.nodes[0]?.border, 'solid');
  assert.equal(found.nodes[0].strike, false);
  assert.equal(found.details.size, 0);
});

test('what is not a picture is refused in one sentence that names the place', () => {
  says(null, /^This picture cannot be drawn: it should be an object\.$/);
  says('<svg/>', /it should be an object/);
  says([], /it should be an object/);
  says({ version: 2 }, /not of format version 1/);
  says(picture({ rows: {} }), /rows should be a list/);
  says(picture({ title: 7 }), /title should be a text/);
  says(picture({ columns: [] }), /columns should be at least 1 long/);
  says(picture({ width: Infinity }), /width should be a number/);
  says(picture({ height: '400' }), /height should be a number/);
  says(picture({ rows: [row('a', null, 'net', ['one'])] }), /rows\[0\]\.cells should be as long/);
  says(picture({ rows: [row('a', null, 'net', ['x', 'y'], { diff: '!' })] }), /rows\[0\]\.diff/);
  says(picture({ nodes: [node('a', null, 'net', 'pill', { x: NaN })] }), /nodes\[0\]\.x/);
  says(picture({ nodes: [node('a', null, 'net', 'pill', { w: -1 })] }), /nodes\[0\]\.w/);
  says(picture({ nodes: [node('a', null, 'net', 'pill', { strike: 'no' })] }), /strike/);
  says(picture({ details: { 'user:1': 'text' } }), /details\["user:1"\] should be an object/);
});

test('ids are used once, and parents stand first', () => {
  const a = row('a', null, 'net', ['a', '']);
  says(picture({ rows: [a, a] }), /rows\[1\]\.id should be used once/);
  says(picture({ rows: [row('b', 'a', 'net', ['b', '']), a] }), /rows\[0\]\.parent/);
  says(picture({ rows: [row('a', 'a', 'net', ['a', ''])] }), /rows\[0\]\.parent/);
});

test('an edge joins nodes that exist', () => {
  const edge = {
    from: 'user:1',
    to: 'gone',
    kind: '',
    points: [
      [0, 0],
      [1, 1],
    ],
  };
  says(picture({ edges: [edge] }), /edges\[0\]\.to should be the id of a node/);
  const short = { from: 'user:1', to: 'user:1', points: [[0, 0]] };
  says(picture({ edges: [short] }), /edges\[0\]\.points/);
});

test('sizes are bounded', () => {
  const rows = Array.from({ length: LIMITS.rows + 1 }, (_, i) =>
    row(String(i), null, 'net', ['', '']),
  );
  says(picture({ rows }), /rows should be at most/);
  const deep = Array.from({ length: LIMITS.depth + 1 }, (_, i) =>
    row(String(i), i === 0 ? null : String(i - 1), 'net', ['', '']),
  );
  says(picture({ rows: deep }), /less than 64 deep/);
  const long = parse(picture({ title: 'x'.repeat(LIMITS.text + 5) }));
  assert.equal(long.title.length, LIMITS.text + 1);
});

test('an id may be the name of an inherited property', () => {
  const names = ['__proto__', 'constructor', 'toString'];
  const json = JSON.stringify(
    picture({
      rows: names.map((name) => row(name, null, 'net', [name, ''])),
      nodes: [],
      edges: [],
    }),
  ).replace('"details":{', '"details":{"__proto__":{"meaning":"plain"},');
  const found = parse(JSON.parse(json));
  assert.equal(found.details.get('__proto__')?.meaning, 'plain');
  assert.equal(found.details.get('constructor'), undefined);
});
