/**
 * The side panel: it follows the notebook in front, and speaks with its kernel while it is seen.
 *
 * A restarted kernel has forgotten the comm, so a new one is opened when it is ready; the same
 * after the browser was reloaded, and for each client on its own.
 */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Dialog, MainAreaWidget, showDialog, type ISessionContext } from '@jupyterlab/apputils';
import { PageConfig, URLExt } from '@jupyterlab/coreutils';
import { ServerConnection, type Kernel, type KernelMessage } from '@jupyterlab/services';
import type { Message } from '@lumino/messaging';
import { Menu, Widget } from '@lumino/widgets';
import { html } from '../view/dom.js';
import { draw, type Handle } from '../view/view.js';
import { icon } from './icon.js';
import { WorldList, type Question } from './list.js';
import { CONTAINER, difference, tabLabel } from './views.js';
import { Line, TARGET, type Action, type World } from './world.js';

type Connection = Kernel.IKernelConnection;

/** A widget of the shell that has a kernel: a notebook, a console. */
function sessionOf(widget: Widget | null): ISessionContext | null {
  const context = (widget as { sessionContext?: ISessionContext } | null)?.sessionContext;
  return context ?? null;
}

/** Whether the page is Notebook's, which has one document in the middle and room below. */
const ONE_DOCUMENT = PageConfig.getOption('notebookPage') !== '';

/** The command that opens a view; its argument `words` are those of the view. */
export const VIEW = 'ctrt:view';

/** A main-area tab with a picture, drawn anew as long as what it shows is there. */
class PictureTab extends Widget {
  private handle: Handle | null = null;

  constructor(
    readonly words: readonly string[],
    private readonly seen: () => void,
  ) {
    super();
    this.addClass('ctrt-tab');
    this.node.append(html('p', { class: 'ctrt-world-say' }, 'Asking the kernel …'));
  }

  picture(graph: unknown, error: string): void {
    if (error !== '') {
      if (this.handle === null) {
        this.node.replaceChildren(html('p', { class: 'ctrt-world-say', role: 'status' }, error));
      }
    } else if (this.handle) {
      this.handle.update(graph);
    } else {
      this.node.replaceChildren();
      this.handle = draw(graph, this.node);
    }
  }

  /** What a view of containers shows may have ended, also while the tab is not seen. */
  told({ containers, sandboxes }: World): void {
    const names = [...containers, ...sandboxes].map(({ name }) => name);
    const [view = '', ...targets] = this.words;
    const ended = view !== 'image' && !targets.every((target) => names.includes(target));
    (this.parent ?? this).title.label = tabLabel(this.words) + (ended ? ' (ended)' : '');
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.seen();
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.seen();
  }

  override dispose(): void {
    this.handle?.dispose();
    this.handle = null;
    super.dispose();
  }
}

export class WorldPanel extends Widget {
  /** Seconds between two looks of the kernel. */
  seconds = 2;
  private readonly list = new WorldList({
    do: (action, name) => this.do(action, name),
    view: (words) => {
      this.openView(words);
    },
    terminal: (name) => this.openTerminal(name),
    sure: (question) => this.sure(question),
    more: (name, others, button) => {
      this.offer(name, others, button);
    },
    output: (name) => {
      void this.openOutput(name);
    },
    load: () => {
      this.load();
    },
  });
  private readonly tabs = new Map<string, PictureTab>();
  private session: ISessionContext | null = null;
  private kernel: Connection | null = null;
  private line: Line | null = null;
  private restarting = false;

  private asks = true;

  /** `askNoMore` keeps the reader's wish for no more questions. */
  constructor(
    private readonly app: JupyterFrontEnd,
    private readonly askNoMore: () => void,
  ) {
    super();
    this.addClass('ctrt-world-panel');
    this.node.append(this.list.node);
    this.app.shell.currentChanged?.connect(() => {
      this.follow();
    });
    void this.app.restored.then(() => {
      this.follow();
    });
  }

  /** Whether there is a kernel that answers. */
  get connected(): boolean {
    return this.line !== null;
  }

  /** Have the kernel do something, and say in the panel what came of it. */
  order(action: Action, name: string): Promise<void> {
    return this.list.do(action, name);
  }

  /** Open a terminal inside a container, or say in the panel why not. */
  terminal(name: string): Promise<void> {
    return this.list.terminal(name);
  }

  private do(action: Action, name: string): Promise<string> {
    return this.line
      ? this.line.do(action, name)
      : Promise.reject(new Error('there is no kernel with ctrt'));
  }

  /** Show a view in a tab of the main area, drawn anew while it is seen. */
  openView(words: readonly string[]): void {
    const key = words.join(' ');
    if (!this.tabs.has(key)) {
      const tab = new PictureTab(words, () => {
        this.tell();
      });
      this.tabs.set(key, tab);
      tab.disposed.connect(() => {
        this.tabs.delete(key);
        this.tell();
      });
      this.add(tab, `ctrt-view-${key}`, tabLabel(words));
    }
    this.app.shell.activateById(`ctrt-view-${key}`);
  }

  /** Open a terminal of the server with a shell inside a container. */
  private async openTerminal(name: string): Promise<void> {
    if (!this.app.serviceManager.terminals.isAvailable()) {
      throw new Error('this server gives no terminals');
    }
    const script = await this.do('terminal', name);
    const settings = this.app.serviceManager.serverSettings;
    const answer = await ServerConnection.makeRequest(
      URLExt.join(settings.baseUrl, 'api/terminals'),
      { method: 'POST', body: JSON.stringify({ shell_command: ['/bin/sh', '-c', script] }) },
      settings,
    );
    if (!answer.ok) {
      throw new Error(`the server opened no terminal: ${answer.statusText}`);
    }
    const model = (await answer.json()) as { name: string };
    if (ONE_DOCUMENT) {
      window.open(URLExt.join(settings.baseUrl, 'terminals', model.name), '_blank', 'noopener');
    } else {
      await this.app.commands.execute('terminal:open', { name: model.name });
    }
  }

  /** Ask, as JupyterLab does, unless the reader wants no such questions. */
  private async sure({ title, lost, yes }: Question): Promise<boolean> {
    if (!this.asks) {
      return true;
    }
    const { button, isChecked } = await showDialog({
      title,
      body: lost,
      buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: yes })],
      checkbox: { label: 'Do not ask me again', caption: 'A setting of "Containers" asks again' },
    });
    if (button.accept && isChecked === true) {
      this.asks = false;
      this.askNoMore();
    }
    return button.accept;
  }

  /** A menu of all views of a container, at a button. */
  private offer(name: string, others: readonly string[], button: HTMLElement): void {
    const menu = new Menu({ commands: this.app.commands });
    for (const { words, label } of CONTAINER) {
      menu.addItem({ command: VIEW, args: { words: [...words, name], label } });
    }
    if (others.length > 0) {
      menu.addItem({ type: 'separator' });
    }
    for (const other of others) {
      const args = { words: difference(name, other), label: `Compare with ${other}` };
      menu.addItem({ command: VIEW, args });
    }
    const { left, bottom } = button.getBoundingClientRect();
    menu.open(left, bottom);
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.follow();
    this.tell();
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.tell();
  }

  private add(content: Widget, id: string, label: string): void {
    const tab = new MainAreaWidget({ content });
    tab.id = id;
    tab.title.label = label;
    tab.title.caption = label;
    tab.title.icon = icon;
    tab.toolbar.hide();
    tab.title.closable = true;
    if (ONE_DOCUMENT) {
      tab.node.style.minHeight = '45vh';
    }
    this.app.shell.add(tab, ONE_DOCUMENT ? 'down' : 'main');
  }

  private async openOutput(name: string): Promise<void> {
    try {
      const words = await this.do('output', name);
      const content = new Widget();
      content.addClass('ctrt-tab');
      content.node.append(html('pre', { tabindex: 0 }, words));
      const id = `ctrt-output-${name}-${String(Date.now())}`;
      this.add(content, id, `${name}: output`);
      this.app.shell.activateById(id);
    } catch (error) {
      this.list.say(error instanceof Error ? error.message : String(error));
    }
  }

  private load(): void {
    this.list.absent('connecting');
    const future = this.kernel?.requestExecute({ code: '%load_ext ctrt', silent: true });
    void future?.done.then(() => {
      this.open();
    });
  }

  /** Follow the notebook in front; a tab without a kernel changes nothing. */
  private follow(): void {
    const session = sessionOf(this.app.shell.currentWidget);
    if (session && session !== this.session) {
      this.session?.kernelChanged.disconnect(this.onKernel);
      this.session?.disposed.disconnect(this.onSessionEnd);
      this.session = session;
      session.kernelChanged.connect(this.onKernel);
      session.disposed.connect(this.onSessionEnd);
    }
    this.use(this.session?.session?.kernel ?? null);
  }

  private readonly onKernel = (): void => {
    this.use(this.session?.session?.kernel ?? null);
  };

  private readonly onSessionEnd = (): void => {
    this.session = null;
    this.use(null);
  };

  private use(kernel: Connection | null): void {
    if (kernel === this.kernel) {
      if (kernel !== null && this.line === null && this.isVisible) {
        this.open();
      }
      return;
    }
    this.kernel?.statusChanged.disconnect(this.onStatus);
    this.drop();
    this.kernel = kernel;
    this.list.of(kernel === null ? '' : (this.session?.kernelDisplayName ?? kernel.name));
    if (kernel === null) {
      this.list.absent('no kernel');
      return;
    }
    kernel.statusChanged.connect(this.onStatus);
    this.open();
  }

  private readonly onStatus = (_: Connection, status: Kernel.Status): void => {
    if (status === 'restarting' || status === 'autorestarting') {
      this.restarting = true;
      this.drop();
      this.list.absent('connecting');
    } else if (status === 'dead') {
      this.drop();
      this.list.absent('no kernel');
    } else if (status === 'idle' && this.restarting) {
      this.restarting = false;
      this.open();
    }
  };

  /** Open the comm; a kernel that does not know its target closes it at once. */
  private open(): void {
    const kernel = this.kernel;
    if (kernel === null || kernel.isDisposed || !kernel.handleComms) {
      return;
    }
    this.drop();
    this.list.absent('connecting');
    const comm = kernel.createComm(TARGET);
    const line = new Line(
      {
        send: (data) => {
          if (!comm.isDisposed) {
            void comm.send(data as KernelMessage.ICommMsgMsg['content']['data']);
          }
        },
        close: () => {
          if (!comm.isDisposed && !kernel.isDisposed) {
            comm.close();
          }
        },
      },
      {
        world: (world: World) => {
          this.list.show(world);
          for (const tab of this.tabs.values()) {
            tab.told(world);
          }
        },
        picture: (words, graph, error) => {
          this.tabs.get(words.join(' '))?.picture(graph, error);
        },
        progress: (name, done, total) => {
          this.list.progress(name, done, total);
        },
      },
    );
    this.line = line;
    comm.onMsg = (message) => {
      line.receive(message.content.data);
    };
    comm.onClose = () => {
      line.lost();
      if (this.line === line) {
        this.line = null;
        this.list.absent('no ctrt');
      }
    };
    comm.open();
    this.tell();
  }

  private drop(): void {
    this.line?.close();
    this.line = null;
  }

  /** Tell the kernel what is seen of it. */
  private tell(): void {
    const seen = [...this.tabs.values()].filter((tab) => tab.isVisible);
    this.line?.watch(seen.map(({ words }) => words));
    this.line?.visible(this.isVisible || seen.length > 0 ? this.seconds : null);
  }

  /** Other settings: how often to look, and whether to ask before something is lost. */
  configure(seconds: number, asks: boolean): void {
    this.asks = asks;
    this.seconds = seconds;
    this.tell();
  }
}
