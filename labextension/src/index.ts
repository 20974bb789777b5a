/**
 * JupyterLab's side: a mime renderer that hands the picture to the view.
 *
 * It is `safe`: the view sets text only, so a saved notebook that nobody trusts yet, without a
 * kernel, still draws its pictures and lets them be walked.
 */

import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { Widget } from '@lumino/widgets';
import { draw, type Handle } from './view/view.js';

export const MIME_TYPE = 'application/vnd.ctrt.graph.v1+json';

class PictureWidget extends Widget implements IRenderMime.IRenderer {
  private handle: Handle | null = null;

  constructor(private readonly mimeType: string) {
    super();
    this.addClass('ctrt-output');
  }

  renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const graph: unknown = model.data[this.mimeType];
    if (this.handle) {
      this.handle.update(graph);
    } else {
      this.handle = draw(graph, this.node);
    }
    return Promise.resolve();
  }

  override dispose(): void {
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
  // Before the picture's own SVG (80), which is there for viewers without this extension.
  rank: 10,
  dataType: 'json',
};

export default extension;
