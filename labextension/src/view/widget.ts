/** The view as one module for anywidget: the traits `graph`, `selected` and `filter` are its state. */

import { draw } from './view.js';

export { draw } from './view.js';

/** The part of anywidget's model that is used here. */
export interface Model {
  get(key: string): unknown;
  set(key: string, value: unknown): void;
  on(event: string, callback: () => void): void;
  off(event: string, callback: () => void): void;
  save_changes(): void;
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const text = (key: string): string => {
    const value = model.get(key);
    return typeof value === 'string' ? value : '';
  };
  const tell = (key: string) => (value: string) => {
    if (value !== model.get(key)) {
      model.set(key, value);
      model.save_changes();
    }
  };
  const handle = draw(model.get('graph'), el, {
    selected: text('selected'),
    filter: text('filter'),
    onSelect: tell('selected'),
    onFilter: tell('filter'),
  });
  const listeners: [string, () => void][] = [
    [
      'change:graph',
      () => {
        handle.update(model.get('graph'));
      },
    ],
    [
      'change:selected',
      () => {
        handle.select(text('selected'));
      },
    ],
    [
      'change:filter',
      () => {
        handle.filter(text('filter'));
      },
    ],
  ];
  for (const [event, callback] of listeners) {
    model.on(event, callback);
  }
  return () => {
    for (const [event, callback] of listeners) {
      model.off(event, callback);
    }
    handle.dispose();
  };
}

export default { render };
