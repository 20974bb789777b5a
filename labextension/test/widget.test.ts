import assert from 'node:assert/strict';
import test from 'node:test';
import widget, { type Model } from '../src/view/widget.js';
import { field, find, picture, place } from './page.js';

class FakeModel implements Model {
  saves = 0;
  readonly listeners = new Map<string, () => void>();

  constructor(readonly state: Record<string, unknown>) {}

  get(key: string): unknown {
    return this.state[key];
  }

  set(key: string, value: unknown): void {
    this.state[key] = value;
  }

  on(event: string, callback: () => void): void {
    this.listeners.set(event, callback);
  }

  off(event: string, callback: () => void): void {
    if (this.listeners.get(event) === callback) {
      this.listeners.delete(event);
    }
  }

  save_changes(): void {
    this.saves++;
  }

  /** What the kernel does. */
  change(key: string, value: unknown): void {
    this.state[key] = value;
    this.listeners.get(`change:${key}`)?.();
  }
}

test('traits and view follow each other', () => {
  const el = place();
  const model = new FakeModel({ graph: picture(), selected: '', filter: '' });
  const close = widget.render({ model, el });
  find(el, 'tr[data-id="user:1"]').click();
  assert.equal(model.get('selected'), 'user:1');
  assert.equal(model.saves, 1);

  model.change('selected', 'net:host');
  assert.equal(find(el, '[aria-selected="true"]').dataset.id, 'net:host');
  model.change('filter', 'sh');
  assert.equal(field(el).value, 'sh');
  model.change('graph', picture({ title: 'Another' }));
  assert.equal(find(el, 'h3').textContent, 'Another');
  assert.equal(model.saves, 1);

  close();
  assert.equal(el.childElementCount, 0);
  assert.equal(model.listeners.size, 0);
});
