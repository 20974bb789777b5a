/**
 * The side panel's content: containers, sandboxes and images, with what can be done to each.
 *
 * It is plain DOM and knows nothing of JupyterLab. What it shows comes from containers and is set as text.
 */

import { html } from '../view/dom.js';
import { LAYERS, MACHINE } from './views.js';
import { size, type Action, type Container, type Ended, type Image, type World } from './world.js';

export interface Hands {
  /** Do something; the promise tells what was said, or fails with a sentence. */
  do(action: Action, name: string): Promise<string>;
  /** Ask whether to do what cannot be taken back. */
  sure(question: Question): Promise<boolean>;
  /** Open a view in a tab. */
  view(words: readonly string[]): void;
  output(name: string): void;
  /** Open a terminal inside; the promise fails with a sentence where that cannot be. */
  terminal(name: string): Promise<void>;
  /** Offer the other views of a container at a button. */
  more(name: string, others: readonly string[], button: HTMLElement): void;
  /** Bring ctrt into a kernel that has none. */
  load(): void;
}

/** What is asked before something is lost. */
export interface Question {
  readonly title: string;
  /** What is lost, in a sentence. */
  readonly lost: string;
  /** The word of the button that does it. */
  readonly yes: string;
}

const QUESTIONS: Partial<Record<Action, (name: string, sandbox: boolean) => Question>> = {
  stop: (name, sandbox) => ({
    title: `Stop ${name}?`,
    lost: sandbox
      ? 'Its programs end, and its namespaces with them.'
      : 'Its programs end, and what they wrote is gone, but for volumes.',
    yes: 'Stop',
  }),
  remove: (name) => ({
    title: `Remove the image ${name}?`,
    lost: 'It must be pulled or built again to be used.',
    yes: 'Remove',
  }),
  forget: (name) => ({
    title: `Forget ${name}?`,
    lost: 'Its output and exit status are gone then.',
    yes: 'Forget',
  }),
};

/** Why there is nothing to see. */
export type Absence = 'no kernel' | 'no ctrt' | 'connecting';

const WORDS: Record<Absence, string> = {
  'no kernel': 'Open a notebook with a running kernel: this panel shows its world.',
  'no ctrt': 'This kernel has no ctrt yet.',
  connecting: 'Asking the kernel …',
};

export class WorldList {
  readonly node = html('div', { class: 'ctrt-world' });
  private readonly kernel = html('p', { class: 'ctrt-world-kernel' });
  private readonly body = html('div', { class: 'ctrt-world-body' });
  private readonly status = html('p', { class: 'ctrt-world-status', role: 'status' });
  private readonly bars = html('div', { class: 'ctrt-world-bars' });
  private readonly reference = html('input', {
    type: 'text',
    placeholder: 'debian:12',
    'aria-label': 'Image to pull',
    spellcheck: 'false',
    autocomplete: 'off',
  });

  constructor(private readonly hands: Hands) {
    const form = html(
      'form',
      { class: 'ctrt-world-pull' },
      this.reference,
      html('button', { type: 'submit', class: 'ctrt-world-button' }, 'Pull'),
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const name = this.reference.value.trim();
      if (name !== '') {
        this.reference.value = '';
        void this.do('pull', name);
      }
    });
    this.form = form;
    this.machine = html(
      'section',
      { 'aria-label': 'Machine' },
      html('h3', {}, 'Machine'),
      html(
        'span',
        { class: 'ctrt-world-hands' },
        ...MACHINE.map(({ words, label }) =>
          this.button(label, 'of the machine', () => {
            this.hands.view(words);
          }),
        ),
      ),
    );
    this.node.append(this.kernel, this.body, this.bars, this.status);
    this.absent('no kernel');
  }

  private readonly form: HTMLFormElement;
  private readonly machine: HTMLElement;

  /** Say whose world this is. */
  of(kernel: string): void {
    this.kernel.textContent = kernel;
  }

  /** Say why there is nothing. */
  absent(why: Absence): void {
    const parts: HTMLElement[] = [html('p', { class: 'ctrt-world-say' }, WORDS[why])];
    if (why === 'no ctrt') {
      const button = html('button', { type: 'button', class: 'ctrt-world-button' }, 'Load ctrt');
      button.addEventListener('click', () => {
        this.hands.load();
      });
      parts.push(button);
    }
    this.bars.replaceChildren();
    this.say('');
    this.body.replaceChildren(...parts);
  }

  private sandboxes: ReadonlySet<string> = new Set();

  /** Show a world; the focus stays where it is. */
  show(world: World): void {
    this.sandboxes = new Set(world.sandboxes.map(({ name }) => name));
    const focus = this.focused();
    this.body.replaceChildren(
      this.section(
        'Containers',
        world.containers.map((entry) =>
          this.container(
            entry,
            world.containers.map(({ name }) => name).filter((name) => name !== entry.name),
          ),
        ),
        'None is running.',
      ),
      ...(world.sandboxes.length === 0
        ? []
        : [
            this.section(
              'Sandboxes',
              world.sandboxes.map((entry) => this.container(entry)),
              '',
            ),
          ]),
      ...(world.ended.length === 0
        ? []
        : [
            this.section(
              'Ended',
              world.ended.map((entry) => this.ended(entry)),
              '',
            ),
          ]),
      this.section(
        'Images',
        world.images.map((entry) => this.image(entry)),
        'None yet.',
      ),
      this.form,
      this.machine,
    );
    if (world.error !== '') {
      this.say(world.error);
    }
    if (focus !== '') {
      this.focus(focus);
    }
  }

  private focus(key: string): void {
    const same = Array.from(this.body.querySelectorAll<HTMLElement>('[data-key]')).find(
      (element) => element.dataset.key === key,
    );
    same?.focus();
  }

  /** How far a pull is; bytes. */
  progress(name: string, done: number, total: number): void {
    const label = `${name}: ${size(done)} of ${size(total)}`;
    let bar = Array.from(this.bars.children).find(
      (element) => element instanceof HTMLElement && element.dataset.name === name,
    );
    if (bar === undefined) {
      bar = html(
        'div',
        { 'data-name': name },
        html('span', {}),
        html('progress', { 'aria-label': `Pulling ${name}` }),
      );
      this.bars.append(bar);
    }
    const [words, meter] = Array.from(bar.children);
    if (words) {
      words.textContent = label;
    }
    meter?.setAttribute('value', String(done));
    meter?.setAttribute('max', String(Math.max(total, 1)));
  }

  /** Say something in the panel's last line. */
  say(words: string): void {
    this.status.textContent = words;
  }

  private focused(): string {
    const element = document.activeElement;
    return element instanceof HTMLElement && this.body.contains(element)
      ? (element.dataset.key ?? '')
      : '';
  }

  /** Have something done, after a question if something is lost by it, and say how it went. */
  async do(action: Action, name: string): Promise<void> {
    const question = QUESTIONS[action]?.(name, this.sandboxes.has(name));
    if (question !== undefined) {
      const key = this.focused();
      const sure = await this.hands.sure(question);
      if (key !== '') {
        this.focus(key); // the row may be another one by now
      }
      if (!sure) {
        return;
      }
    }
    this.say(`${action} ${name} …`);
    if (action === 'pull') {
      this.progress(name, 0, 0);
    }
    try {
      await this.hands.do(action, name);
      this.say(`${action} ${name}: done`);
    } catch (error) {
      this.say(error instanceof Error ? error.message : String(error));
    }
    if (action === 'pull') {
      for (const bar of Array.from(this.bars.children)) {
        if (bar instanceof HTMLElement && bar.dataset.name === name) {
          bar.remove();
        }
      }
    }
  }

  /** Open a terminal inside a container. */
  async terminal(name: string): Promise<void> {
    try {
      await this.hands.terminal(name);
      this.say('');
    } catch (error) {
      this.say(error instanceof Error ? error.message : String(error));
    }
  }

  private section(title: string, entries: HTMLElement[], none: string): HTMLElement {
    return html(
      'section',
      { 'aria-label': title },
      html('h3', {}, `${title} `, html('span', {}, String(entries.length))),
      entries.length === 0
        ? html('p', { class: 'ctrt-world-say' }, none)
        : html('ul', {}, ...entries),
    );
  }

  /** `others` are the containers that it may be compared with. */
  private container(entry: Container, others: readonly string[] = []): HTMLElement {
    const { name } = entry;
    const more = this.button('More', name, () => {
      this.hands.more(name, others, more);
    });
    more.setAttribute('aria-haspopup', 'menu');
    const what = entry.image === '' ? entry.command : `${entry.image} · ${entry.command}`;
    return html(
      'li',
      { class: 'ctrt-world-container', 'data-name': name },
      html('span', { class: 'ctrt-world-name', title: name }, name),
      more,
      html('span', { class: 'ctrt-world-what', title: what }, what),
      html(
        'span',
        { class: 'ctrt-world-hands' },
        this.button('Graph', name, () => {
          this.hands.view(['container', name]);
        }),
        this.button('Terminal', name, () => void this.terminal(name)),
        entry.output
          ? this.button('Output', name, () => {
              this.hands.output(name);
            })
          : null,
        this.button('Stop', name, () => void this.do('stop', name)),
      ),
    );
  }

  private ended({ name, image, how }: Ended): HTMLElement {
    return html(
      'li',
      { class: 'ctrt-world-ended', 'data-name': name },
      html('span', { class: 'ctrt-world-name', title: name }, name),
      html('span', { class: 'ctrt-world-what', title: `${how} · ${image}` }, `${how} · ${image}`),
      html(
        'span',
        { class: 'ctrt-world-hands' },
        this.button('Output', name, () => {
          this.hands.output(name);
        }),
        this.button('Forget', name, () => void this.do('forget', name)),
      ),
    );
  }

  private image({ name, size: bytes }: Image): HTMLElement {
    return html(
      'li',
      { class: 'ctrt-world-image', 'data-name': name },
      html('span', { class: 'ctrt-world-name', title: name }, name),
      html('span', { class: 'ctrt-world-what' }, size(bytes)),
      html(
        'span',
        { class: 'ctrt-world-hands' },
        this.button(LAYERS.label, name, () => {
          this.hands.view([...LAYERS.words, name]);
        }),
        this.button('Remove', name, () => void this.do('remove', name)),
      ),
    );
  }

  private button(word: string, name: string, press: () => void): HTMLElement {
    const button = html(
      'button',
      {
        type: 'button',
        class: 'ctrt-world-button',
        'aria-label': `${word} ${name}`,
        'data-key': `${word} ${name}`,
      },
      word,
    );
    button.addEventListener('click', press);
    return button;
  }
}

export const PANEL_STYLE = `
.ctrt-world { background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); font: 13px/1.4 var(--jp-ui-font-family); height: 100%; overflow: auto; padding: 8px; }
.ctrt-world h3 { font-size: 11px; font-weight: 600; letter-spacing: .06em; margin: 12px 0 4px; text-transform: uppercase; }
.ctrt-world h3 span { color: var(--jp-ui-font-color2); font-weight: 400; }
.ctrt-world ul { list-style: none; margin: 0; padding: 0; }
.ctrt-world li { align-items: center; border-radius: 4px; display: grid; gap: 0 8px; grid-template-columns: minmax(0, 1fr) auto; padding: 4px; }
.ctrt-world li > * { grid-column: 1 / -1; }
.ctrt-world li > .ctrt-world-name:has(+ button) { grid-column: 1; }
.ctrt-world li > button { grid-column: 2; }
.ctrt-world li:hover, .ctrt-world li:focus-within { background: var(--jp-layout-color2); }
.ctrt-world-name { font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ctrt-world-what { color: var(--jp-ui-font-color1); font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ctrt-world-hands { display: flex; flex-wrap: wrap; gap: 3px; margin: 3px 0 2px; }
.ctrt-world-button { background: var(--jp-layout-color1); border: 1px solid var(--jp-border-color1); border-radius: 4px; color: inherit; cursor: pointer; font: inherit; font-size: 12px; padding: 2px 4px; }
.ctrt-world-button:hover { background: var(--jp-layout-color3); }
.ctrt-world :focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: 1px; }
.ctrt-world p { margin: 4px 0; }
.ctrt-world-kernel { font-weight: 600; }
.ctrt-world-pull { display: flex; gap: 6px; margin-top: 8px; }
.ctrt-world-pull input { background: var(--jp-layout-color0); border: 1px solid var(--jp-border-color1); border-radius: 4px; color: inherit; flex: 1; font: inherit; min-width: 0; padding: 2px 6px; }
.ctrt-world-pull input::placeholder { color: var(--jp-ui-font-color2); opacity: 1; }
.ctrt-world-bars progress { accent-color: var(--jp-brand-color1); display: block; width: 100%; }
.ctrt-world-status { min-height: 1.4em; overflow-wrap: anywhere; }
.ctrt-tab { background: var(--jp-layout-color0); height: 100%; overflow: auto; }
.ctrt-tab pre { font-family: var(--jp-code-font-family); font-size: 13px; margin: 0; padding: 8px 12px; white-space: pre-wrap; }
`;
