/** JupyterLab's and Notebook's side of the panel: where it is, its commands and its settings. */

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin,
} from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { ILauncher } from '@jupyterlab/launcher';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { LabIcon } from '@jupyterlab/ui-components';
import { PANEL_STYLE } from './list.js';
import { WorldPanel } from './panel.js';

const ID = 'jupyterlab-ctrt:plugin';
const SHOW = 'ctrt:show-containers';
const GRAPH = 'ctrt:graph';
const STOP = 'ctrt:stop';
const ROW = 'ctrt-world-container';

const icon = new LabIcon({
  name: 'ctrt:containers',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 64 64">
  <g class="jp-icon3" stroke="#616161" stroke-width="5" stroke-linejoin="round">
  <rect x="4" y="10" width="56" height="44" rx="8" fill="none"/>
  <path d="M15 45V24h12l4 4h18v17z" fill="none"/></g>
</svg>`,
});

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: "A side panel with the containers of the notebook's kernel.",
  autoStart: true,
  optional: [ICommandPalette, ILauncher, ILayoutRestorer, ISettingRegistry],
  activate: (
    app: JupyterFrontEnd,
    palette: ICommandPalette | null,
    launcher: ILauncher | null,
    restorer: ILayoutRestorer | null,
    settings: ISettingRegistry | null,
  ) => {
    const style = document.createElement('style');
    style.textContent = PANEL_STYLE;
    document.head.append(style);

    const panel = new WorldPanel(app);
    panel.id = 'ctrt-world';
    panel.title.icon = icon;
    panel.title.caption = 'Containers';
    panel.node.setAttribute('role', 'region');
    panel.node.setAttribute('aria-label', 'Containers of the kernel');
    app.shell.add(panel, 'left', { rank: 450 });
    restorer?.add(panel, panel.id);

    /** The container that a context menu was opened on. */
    const chosen = (): string =>
      app.contextMenuHitTest((node) => node.classList.contains(ROW))?.dataset.name ?? '';

    app.commands.addCommand(SHOW, {
      label: 'Containers',
      caption: "Show the containers of the notebook's kernel",
      icon,
      execute: () => {
        app.shell.activateById(panel.id);
      },
    });
    app.commands.addCommand(GRAPH, {
      label: 'Open the Graph',
      caption: 'Draw the namespaces and mounts of a container in a tab',
      isEnabled: () => panel.connected,
      execute: (words) => {
        panel.openGraph(typeof words.name === 'string' ? words.name : chosen());
      },
    });
    app.commands.addCommand(STOP, {
      label: 'Stop the Container',
      isEnabled: () => panel.connected,
      execute: (words) => panel.do('stop', typeof words.name === 'string' ? words.name : chosen()),
    });
    palette?.addItem({ command: SHOW, category: 'Containers' });
    launcher?.add({ command: SHOW, category: 'Other', rank: 50 });
    if (settings) {
      void settings.load(ID).then((loaded) => {
        const read = (): void => {
          const seconds = loaded.get('seconds').composite;
          panel.every(typeof seconds === 'number' ? seconds : 2);
        };
        loaded.changed.connect(read);
        read();
      });
    }
  },
};

export default plugin;
