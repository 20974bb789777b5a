/**
 * The live widget of a picture, where there is one.
 *
 * A cell that shows a widget gives its picture, too. JupyterLab shows one form of an output, and the
 * widget's own says "model not found" when its kernel is gone. So the picture is what is shown,
 * and it gives way to the widget as soon as, and as long as, that is alive.
 */

import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import type { Widget } from '@lumino/widgets';

export const WIDGET_TYPE = 'application/vnd.jupyter.widget-view+json';

/** What draws the outputs of one document; the part that is used here. */
export interface Renderers {
  getFactory(mimeType: string): unknown;
  createRenderer(mimeType: string): IRenderMime.IRenderer;
}

type Finder = (node: HTMLElement) => Renderers | null;

let finder: Finder = () => null;

/** Say how the document is found that an element is in. */
export function findRenderers(by: Finder): void {
  finder = by;
}

/** Milliseconds between the first two looks for a widget manager; each next wait is longer. */
const FIRST_WAIT = 100;
const LAST_WAIT = 10_000;

/** Follows the widget of one output. */
export class Live {
  private renderer: IRenderMime.IRenderer | null = null;
  private factory: unknown = null;
  private timer = 0;
  private readonly observer = new MutationObserver(() => {
    this.changed(this.alive);
  });

  /**
   * `add` puts a hidden widget into the output, and `changed` hears whether that has something to
   * show.
   */
  constructor(
    private readonly node: HTMLElement,
    private readonly model: IRenderMime.IMimeModel,
    private readonly add: (widget: Widget) => void,
    private readonly changed: (alive: boolean) => void,
  ) {
    this.look(FIRST_WAIT);
  }

  private get alive(): boolean {
    return (this.renderer?.node.childElementCount ?? 0) > 0;
  }

  /** The kernel, and with it what draws its widgets, may come after the page. */
  private look(wait: number): void {
    if (this.alive) {
      return;
    }
    const renderers = finder(this.node);
    const factory = renderers?.getFactory(WIDGET_TYPE);
    if (renderers && factory && factory !== this.factory) {
      this.factory = factory;
      this.drop();
      const renderer = renderers.createRenderer(WIDGET_TYPE);
      this.renderer = renderer;
      renderer.addClass('ctrt-live');
      renderer.hide();
      this.add(renderer);
      this.observer.observe(renderer.node, { childList: true });
      void renderer.renderModel(this.model);
    }
    if (wait < LAST_WAIT) {
      this.timer = window.setTimeout(() => {
        this.look(wait * 2);
      }, wait);
    }
  }

  private drop(): void {
    this.observer.disconnect();
    this.renderer?.dispose();
    this.renderer = null;
  }

  /** Show the widget, or hide it. */
  show(shown: boolean): void {
    this.renderer?.setHidden(!shown);
  }

  dispose(): void {
    window.clearTimeout(this.timer);
    this.drop();
  }
}

/** Whether an output is a widget's, whose program may run. */
export function isLive(model: IRenderMime.IMimeModel): boolean {
  const view = model.data[WIDGET_TYPE] as { model_id?: unknown } | undefined;
  return model.trusted && typeof view?.model_id === 'string' && view.model_id !== '';
}
