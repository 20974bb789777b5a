/**
 * The drawer: what stands behind one row or shape.
 *
 * The raw line of the kernel with its path, a sentence of meaning, the man page and the shell
 * command that shows the same.
 */

import type { Picture } from './picture.js';
import { kindClass, kindName } from './kinds.js';
import { html } from './dom.js';

const MAN_PAGE = /^([a-z0-9][a-z0-9_.+-]*)\((\d)[a-z]*\)$/;

/** The page on the web of `name(section)`; null for anything else. */
export function manAddress(page: string): string | null {
  const [, name = '', section = ''] = MAN_PAGE.exec(page) ?? [];
  return name === ''
    ? null
    : `https://man7.org/linux/man-pages/man${section}/${name}.${section}.html`;
}

/** Copy a text; where the page may not, select it so that the reader can. */
async function copy(code: HTMLElement, button: HTMLButtonElement): Promise<void> {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
  } catch {
    getSelection()?.selectAllChildren(code);
    button.textContent = 'Selected: press Ctrl+C';
  }
}

/** A shape of which nothing is said stands for its parent of the same kind: a group's further mark. */
function subject(picture: Picture, id: string): string {
  const node = picture.nodes.find((each) => each.id === id);
  const parent = picture.nodes.find((each) => each.id === node?.parent);
  const silent = !picture.details.has(id) && !picture.rows.some((row) => row.id === id);
  return silent && parent && parent.kind === node?.kind ? parent.id : id;
}

export class Drawer {
  readonly element = html('section', { class: 'ctrt-drawer', tabindex: -1, hidden: true });
  private shown = '';

  constructor(private readonly close: () => void) {
    this.element.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') {
        event.preventDefault();
        event.stopPropagation();
        this.close();
      }
    });
  }

  get open(): boolean {
    return !this.element.hidden;
  }

  focus(): void {
    this.element.focus({ preventScroll: true });
  }

  /**
   * Lie over the drawing beside a shape, where the reader is looking, rather than move the page;
   * with null, stand beside the table again.
   */
  beside(shape: Element | null): void {
    const { element } = this;
    element.classList.toggle('ctrt-over', shape !== null);
    element.style.removeProperty('top');
    element.style.removeProperty('left');
    const ground = element.closest('.ctrt-main');
    if (shape && ground) {
      const around = ground.getBoundingClientRect();
      const box = shape.getBoundingClientRect();
      const top = box.top - around.top;
      const lowest = around.height - element.offsetHeight;
      // The words of a wide shape are at its left.
      const middle = box.left - around.left + Math.min(box.width, 320) / 2;
      const left = middle < around.width / 2 ? around.width - element.offsetWidth : 0;
      element.style.setProperty('top', `${String(Math.max(0, Math.min(top, lowest)))}px`);
      element.style.setProperty('left', `${String(left)}px`);
    }
  }

  hide(): void {
    this.element.hidden = true;
    this.shown = '';
  }

  show(picture: Picture, id: string, icon: (kind: string) => string): void {
    const about = subject(picture, id);
    const row = picture.rows.find((each) => each.id === about);
    const node = picture.nodes.find((each) => each.id === about);
    const detail = picture.details.get(about);
    const kind = row?.kind ?? node?.kind ?? '';
    const name = [row?.cells[0], node?.label, about].find(Boolean) ?? '';

    const shut = html(
      'button',
      { type: 'button', class: 'ctrt-close', title: 'Close (Escape)' },
      '×',
    );
    shut.setAttribute('aria-label', 'Close details');
    shut.addEventListener('click', this.close);
    const parts: Element[] = [
      html(
        'header',
        { class: kindClass(kind) },
        html('span', { class: 'ctrt-badge', 'aria-hidden': 'true' }, icon(kind)),
        html('h4', {}, name, html('small', {}, kindName(kind, picture.view))),
        shut,
      ),
    ];
    if (detail?.meaning) {
      parts.push(html('p', { class: 'ctrt-meaning' }, detail.meaning));
    }
    const facts = html('dl');
    const fact = (term: string, ...values: Element[]): void => {
      facts.append(html('dt', {}, term), html('dd', {}, ...values));
    };
    row?.cells.forEach((cell, i) => {
      if (i > 0 && cell !== '') {
        fact(picture.columns[i]?.title ?? '', html('span', {}, cell));
      }
    });
    if (detail && detail.raw.length > 0) {
      const lines = detail.raw.map(({ path, line }) =>
        html(
          'figure',
          {},
          html('figcaption', {}, path),
          html('pre', { tabindex: 0, 'aria-label': path }, line),
        ),
      );
      fact('The kernel says', ...lines);
    }
    if (detail?.command) {
      const code = html('code', {}, detail.command);
      const button = html('button', { type: 'button', class: 'ctrt-copy' }, 'Copy');
      button.setAttribute('aria-label', `Copy the command ${detail.command}`);
      button.setAttribute('aria-live', 'polite');
      button.addEventListener('click', () => {
        void copy(code, button);
      });
      fact('See it in a shell', html('div', { class: 'ctrt-command' }, code, button));
    }
    if (detail?.man) {
      const address = manAddress(detail.man);
      fact(
        'Manual',
        address === null
          ? html('span', {}, detail.man)
          : html('a', { href: address, target: '_blank', rel: 'noopener noreferrer' }, detail.man),
      );
    }
    if (facts.childElementCount > 0) {
      parts.push(facts);
    } else if (!detail?.meaning) {
      parts.push(html('p', { class: 'ctrt-say' }, 'Nothing more is known about this.'));
    }
    // The same thing drawn again (a live picture) must not take the reader's place away.
    const { scrollTop } = this.element;
    const held = this.element.contains(document.activeElement);
    this.element.replaceChildren(...parts);
    this.element.setAttribute('aria-label', `Details of ${name}`);
    this.element.hidden = false;
    this.element.scrollTop = this.shown === id ? scrollTop : 0;
    if (held) {
      this.focus();
    }
    this.shown = id;
  }
}
