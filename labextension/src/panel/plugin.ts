/** JupyterLab's and Notebook's side of the panel: where it is, its commands and its settings. */

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin,
} from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { ILauncher } from '@jupyterlab/launcher';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { findRenderers, type Renderers } from '../live.js';
import { icon } from './icon.js';
import { PANEL_STYLE } from './list.js';
import { VIEW, WorldPanel } from './panel.js';
import { MACHINE } from './views.js';

const ID = 'jupyterlab-ctrt:plugin';
const SHOW = 'ctrt:show-containers';
const TERMINAL = 'ctrt:terminal';
const STOP = 'ctrt:stop';
const REMOVE = 'ctrt:remove';
const ROWS = ['ctrt-world-container', 'ctrt-world-image'];

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

    findRenderers((node) => {
      for (const document of app.shell.widgets('main')) {
        if (document.node.contains(node)) {
          // A notebook's, which has `content`, or a console's.
          const { content, console } = document as { content?: unknown; console?: unknown };
          const inner = (content ?? console) as { rendermime?: Renderers } | undefined;
          return inner?.rendermime ?? null;
        }
      }
      return null;
    });

    const panel = new WorldPanel(app, () => {
      void settings?.set(ID, 'ask', false);
    });
    panel.id = 'ctrt-world';
    panel.title.icon = icon;
    panel.title.caption = 'Containers';
    panel.node.setAttribute('role', 'region');
    panel.node.setAttribute('aria-label', 'Containers of the kernel');
    app.shell.add(panel, 'left', { rank: 450 });
    restorer?.add(panel, panel.id);

    /** The container or image that is named, or that a context menu was opened on. */
    const chosen = (args: ReadonlyPartialJSONObject): string =>
      typeof args.name === 'string'
        ? args.name
        : (app.contextMenuHitTest((node) => ROWS.some((row) => node.classList.contains(row)))
            ?.dataset.name ?? '');
    const isEnabled = (): boolean => panel.connected;

    app.commands.addCommand(SHOW, {
      label: 'Containers',
      caption: "Show the containers of the notebook's kernel",
      icon,
      execute: () => {
        app.shell.activateById(panel.id);
      },
    });
    app.commands.addCommand(VIEW, {
      label: (args) => (typeof args.label === 'string' ? args.label : 'Open the Graph'),
      caption: 'Draw what the kernel sees, in a tab',
      isEnabled,
      execute: (args) => {
        const words = Array.isArray(args.words) ? args.words.map(String) : ['container'];
        panel.openView(args.chosen === true ? [...words, chosen(args)] : words);
      },
    });
    app.commands.addCommand(TERMINAL, {
      label: 'Open a Terminal inside',
      isEnabled,
      execute: (args) => panel.terminal(chosen(args)),
    });
    app.commands.addCommand(STOP, {
      label: 'Stop the Container',
      isEnabled,
      execute: (args) => panel.order('stop', chosen(args)),
    });
    app.commands.addCommand(REMOVE, {
      label: 'Remove the Image',
      isEnabled,
      execute: (args) => panel.order('remove', chosen(args)),
    });
    for (const { words, label } of MACHINE) {
      const args = { words: [...words], label: `${label} of This Machine` };
      palette?.addItem({ command: VIEW, args, category: 'Containers' });
    }
    palette?.addItem({ command: SHOW, category: 'Containers' });
    launcher?.add({ command: SHOW, category: 'Other', rank: 50 });
    if (settings) {
      void settings.load(ID).then((loaded) => {
        const read = (): void => {
          const seconds = loaded.get('seconds').composite;
          panel.configure(
            typeof seconds === 'number' ? seconds : 2,
            loaded.get('ask').composite !== false,
          );
        };
        loaded.changed.connect(read);
        read();
      });
    }
  },
};

export default plugin;
