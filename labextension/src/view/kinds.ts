/**
 * The kinds of things in a picture.
 *
 * Eight hues collide for colour-blind readers, so a kind is always an icon and a word as well.
 */

export interface Kind {
  readonly name: string;
  readonly icon: string;
  /** Colours on a light and on a dark ground, both with a contrast of at least 4.5. */
  readonly light: string;
  readonly dark: string;
}

const INK = { light: '#454b54', dark: '#c3cbd4' };

export const KINDS: ReadonlyMap<string, Kind> = new Map([
  ['user', { name: 'user namespace', icon: 'U', light: '#5a3fa0', dark: '#b9a3ff' }],
  ['pid', { name: 'pid namespace', icon: 'P', light: '#b0237a', dark: '#ff8cc8' }],
  ['mnt', { name: 'mount namespace', icon: 'M', light: '#1f5fbf', dark: '#7db4ff' }],
  ['net', { name: 'network namespace', icon: 'N', light: '#0b7a4b', dark: '#4fd69a' }],
  ['uts', { name: 'uts namespace (host name)', icon: 'H', light: '#8a5a00', dark: '#f0b545' }],
  ['ipc', { name: 'ipc namespace', icon: 'I', light: '#5f6b00', dark: '#c9d24a' }],
  ['cgroup', { name: 'cgroup namespace', icon: 'C', light: '#b3391f', dark: '#ff9a80' }],
  ['time', { name: 'time namespace', icon: 'T', light: '#3f6470', dark: '#9cc7d6' }],
  ['process', { name: 'process', icon: '›', ...INK }],
  ['mount', { name: 'mount', icon: '/', light: '#1f5fbf', dark: '#7db4ff' }],
  ['group', { name: 'peer group', icon: '#', light: '#1f5fbf', dark: '#7db4ff' }],
  ['caps', { name: 'capabilities', icon: '^', ...INK }],
  ['layer', { name: 'image layer', icon: 'L', light: '#1f5fbf', dark: '#7db4ff' }],
  ['file', { name: 'file', icon: '/', ...INK }],
  ['note', { name: 'note', icon: 'i', ...INK }],
]);

/** The class that sets a kind's colour; a kind that is not known stays plain. */
export function kindClass(kind: string): string {
  return KINDS.has(kind) ? `ctrt-k-${kind}` : 'ctrt-k-note';
}

/** Views in which a kind lends its colour to something near it. */
const NAMES_IN_VIEW: ReadonlyMap<string, string> = new Map([
  ['cgroups cgroup', 'cgroup'],
  ['network net', 'network'],
  ['ids user', 'user and group ids'],
  ['layers mnt', 'image layer'],
  ['layers mount', 'file'],
  ['difference note', 'difference'],
]);

/** What a kind is called, in the view that it occurs in. */
export function kindName(kind: string, view = ''): string {
  return NAMES_IN_VIEW.get(`${view} ${kind}`) ?? KINDS.get(kind)?.name ?? kind;
}

/** What `+`, `~` and `-` say in words. */
export const DIFF_NAMES: ReadonlyMap<string, string> = new Map([
  ['+', 'added'],
  ['~', 'changed'],
  ['-', 'removed'],
]);

export function diffClass(diff: string): string {
  return { '+': 'ctrt-added', '~': 'ctrt-changed', '-': 'ctrt-removed' }[diff] ?? '';
}
