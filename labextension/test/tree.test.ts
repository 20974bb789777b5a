import assert from 'node:assert/strict';
import test from 'node:test';
import { parse } from '../src/view/picture.js';
import { OPEN_ROWS, Tree } from '../src/view/tree.js';
import { picture, row } from './page.js';

function ids(tree: Tree, filter = ''): string[] {
  return tree.lines(tree.matching(filter)).map((line) => line.row.id);
}

function tree(): Tree {
  return new Tree(parse(picture()).rows);
}

test('rows stand in their order with level, position and size', () => {
  const lines = tree().lines();
  assert.deepEqual(
    lines.map(({ row: { id }, level, position, size }) => [id, level, position, size]),
    [
      ['user:host', 1, 1, 1],
      ['net:host', 2, 1, 2],
      ['user:1', 2, 2, 2],
      ['process:1', 3, 1, 1],
    ],
  );
});

test('a folded row hides what is below it', () => {
  const found = tree();
  found.fold('user:1', true);
  assert.deepEqual(ids(found), ['user:host', 'net:host', 'user:1']);
  found.reveal('process:1');
  assert.deepEqual(ids(found), ['user:host', 'net:host', 'user:1', 'process:1']);
});

test('a filter shows its matches with all above them, folded or not', () => {
  const found = tree();
  found.fold('user:host', true);
  assert.deepEqual(ids(found, 'SH'), ['user:host', 'user:1', 'process:1']);
  const lines = found.lines(found.matching('sh'));
  assert.deepEqual(
    lines.map(({ matches, held }) => [matches, held]),
    [
      [false, true],
      [false, true],
      [true, false],
    ],
  );
  assert.deepEqual(ids(found), ['user:host']);
});

test('every word of a filter must match, in any cell or in the kind', () => {
  assert.deepEqual(ids(tree(), 'network initial'), ['user:host', 'net:host']);
  assert.deepEqual(ids(tree(), 'network nothing'), []);
});

test('a long tree starts folded below its first level', () => {
  const rows = [row('top', null, 'net', ['', '']), row('mid', 'top', 'net', ['', ''])];
  for (let i = 0; i < OPEN_ROWS; i++) {
    rows.push(row(`leaf${String(i)}`, 'mid', 'net', ['', '']));
  }
  assert.deepEqual(ids(new Tree(parse(picture({ rows })).rows)), ['top', 'mid']);
});
