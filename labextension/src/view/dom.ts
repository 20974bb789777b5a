/** Elements with attributes and children; a text child is always a text node, never markup. */

const SVG = 'http://www.w3.org/2000/svg';

type Child = Element | string | null;
type Attributes = Readonly<Record<string, string | number | boolean | null>>;

function fill(element: Element, attributes: Attributes, children: readonly Child[]): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) {
      element.setAttribute(name, '');
    } else if (value !== null && value !== false) {
      element.setAttribute(name, String(value));
    }
  }
  for (const child of children) {
    if (child !== null) {
      element.append(child);
    }
  }
}

export function html<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  fill(element, attributes, children);
  return element;
}

export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  const element = document.createElementNS(SVG, tag);
  fill(element, attributes, children);
  return element;
}

/** A list of classes without the empty ones. */
export function classes(...names: (string | false)[]): string {
  return names.filter((name) => name !== false && name !== '').join(' ');
}

/** True when a key belongs to the view; the others are the notebook's (run a cell) or the browser's. */
export function plainKey(event: KeyboardEvent): boolean {
  const runs = event.shiftKey && event.key === 'Enter';
  return !event.ctrlKey && !event.metaKey && !event.altKey && !event.isComposing && !runs;
}

/** Pixels of a step to the side. */
const ASIDE = 120;

/**
 * Scroll what is wider than its room by Shift and an arrow; true when the key was that.
 *
 * The browser does not: the arrows alone are taken, and a line wider than the room is never out of it.
 */
export function scrolledAside(event: KeyboardEvent, room: Element): boolean {
  const step = { ArrowLeft: -ASIDE, ArrowRight: ASIDE }[event.key];
  if (step === undefined || !event.shiftKey || !plainKey(event)) {
    return false;
  }
  room.scrollLeft += step;
  event.preventDefault();
  event.stopPropagation();
  return true;
}
