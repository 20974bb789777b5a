/**
 * JupyterLab's side: a mime renderer that hands the picture to the view.
 *
 * It is `safe`: the view sets text only, so a saved notebook that nobody trusts yet, without a
 * kernel, still draws its pictures and lets them be walked.
 */

import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { Panel } from '@lumino/widgets';
import { isLive, Live } from './live.js';
import { draw, type Handle } from './view/view.js';

export const MIME_TYPE = 'application/vnd.ctrt.graph.v1+json';

class PictureWidget extends Panel implements IRenderMime.IRenderer {
  private handle: Handle | null = null;
  private live: Live | null = null;
  private model: IRenderMime.IMimeModel | null = null;
  private readonly still = document.createElement('div');

  constructor(private readonly mimeType: string) {
    super();
    this.addClass('ctrt-output');
    this.node.append(this.still);
  }

  renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this.model = model;
    const graph: unknown = model.data[this.mimeType];
    if (this.handle) {
      this.handle.update(graph);
    } else {
      this.handle = draw(graph, this.still);
    }
    this.follow();
    return Promise.resolve();
  }

  protected override onAfterAttach(): void {
    this.follow();
  }

  /** Let the widget take the picture's place while it lives. */
  private follow(): void {
    const { model } = this;
    if (this.live || !this.isAttached || !model || !isLive(model)) {
      return;
    }
    const live = new Live(
      this.node,
      model,
      (widget) => {
        this.addWidget(widget);
      },
      (alive) => {
        live.show(alive);
        if (!alive) {
          this.handle ??= draw(model.data[this.mimeType], this.still);
        } else {
          this.handle?.dispose();
          this.handle = null;
        }
      },
    );
    this.live = live;
  }

  override dispose(): void {
    this.live?.dispose();
    this.live = null;
    this.handle?.dispose();
    this.handle = null;
    super.dispose();
  }
}

const extension: IRenderMime.IExtension = {
  id: 'jupyterlab-ctrt:graph',
  description: 'Draws pictures of Linux containers.',
  rendererFactory: {
    safe: true,
    mimeTypes: [MIME_TYPE],
    createRenderer: (options) => new PictureWidget(options.mimeType),
  },
  // Before the picture's own SVG (80), and before a widget (-10), see live.ts.
  rank: -20,
  dataType: 'json',
};

export default extension;
