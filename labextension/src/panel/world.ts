/**
 * What a kernel tells of its world, read with care, and the line that it comes over.
 *
 * The kernel's half is `ctrt_kernel/world.py`, where the messages are described.
 */

export const TARGET = 'ctrt.world';

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly command: string;
  readonly pid: number;
  /** Whether the kernel has kept its output. */
  readonly output: boolean;
}

/** A container that was left running, and has ended; its output is still there. */
export interface Ended {
  readonly name: string;
  readonly image: string;
  /** How it ended, in words. */
  readonly how: string;
}

export interface Image {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
}

export interface World {
  readonly containers: readonly Container[];
  readonly sandboxes: readonly Container[];
  readonly ended: readonly Ended[];
  readonly images: readonly Image[];
  readonly error: string;
}

export type Action = 'stop' | 'remove' | 'forget' | 'output' | 'pull' | 'terminal';

/** Where a kernel's messages go to. */
export interface Listener {
  world(world: World): void;
  picture(words: readonly string[], graph: unknown, error: string): void;
  progress(name: string, done: number, total: number): void;
}

/** A comm, as much of it as is needed here. */
export interface Comm {
  send(data: unknown): void;
  close(): void;
}

type Json = Readonly<Record<string, unknown>>;

function object(value: unknown): Json {
  return typeof value === 'object' && value !== null ? (value as Json) : {};
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}

function list(value: unknown): Json[] {
  return Array.isArray(value) ? value.map(object) : [];
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.map(text) : [];
}

function container(value: Json): Container {
  return {
    name: text(value.name),
    image: text(value.image),
    command: text(value.command),
    pid: number(value.pid),
    output: value.output === true,
  };
}

export function readWorld(value: unknown): World {
  const data = object(value);
  return {
    containers: list(data.containers).map(container),
    sandboxes: list(data.sandboxes).map(container),
    ended: list(data.ended).map((ended) => ({
      name: text(ended.name),
      image: text(ended.image),
      how: text(ended.how),
    })),
    images: list(data.images).map((image) => ({
      name: text(image.name),
      size: number(image.size),
    })),
    error: text(data.error),
  };
}

interface Waiting {
  readonly resolve: (text: string) => void;
  readonly reject: (error: Error) => void;
}

/** One open comm: orders and their answers, and news for a listener. */
export class Line {
  private readonly waiting = new Map<number, Waiting>();
  private next = 1;

  constructor(
    private readonly comm: Comm,
    private readonly listener: Listener,
  ) {}

  /** Ask for news every so many seconds; null asks for none. */
  visible(seconds: number | null): void {
    this.comm.send({ type: 'visible', seconds });
  }

  /** Ask for these pictures, each named by the words that the kernel draws it by. */
  watch(pictures: readonly (readonly string[])[]): void {
    this.comm.send({ type: 'watch', pictures: pictures.map((words) => [...words]) });
  }

  /** Have something done; gives what it says, or an error in one sentence. */
  do(action: Action, name: string): Promise<string> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.comm.send({ type: 'do', id, action, name });
    });
  }

  /** Take a message of the kernel. */
  receive(message: unknown): void {
    const data = object(message);
    const name = text(data.name);
    switch (data.type) {
      case 'world':
        this.listener.world(readWorld(data));
        break;
      case 'picture':
        this.listener.picture(texts(data.words), data.graph, text(data.error));
        break;
      case 'progress':
        this.listener.progress(name, number(data.done), number(data.total));
        break;
      case 'done':
        this.answer(number(data.id), data);
        break;
    }
  }

  /** The kernel is gone, or has closed the comm. */
  lost(): void {
    for (const { reject } of this.waiting.values()) {
      reject(new Error('the kernel has ended'));
    }
    this.waiting.clear();
  }

  /** Close it from here. */
  close(): void {
    this.lost();
    this.comm.close();
  }

  private answer(id: number, data: Json): void {
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    if (typeof data.error === 'string') {
      waiting?.reject(new Error(data.error));
    } else {
      waiting?.resolve(text(data.text));
    }
  }
}

const UNITS = ['B', 'kB', 'MB', 'GB'];

/** A number of bytes for a person. */
export function size(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value.toFixed(unit === 0 ? 0 : 1)} ${UNITS[unit] ?? ''}`;
}
