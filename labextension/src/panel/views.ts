/**
 * The views that open in tabs: the words that the kernel draws them by, and what they are called.
 *
 * The words are those of `%ctrt graph`.
 */

export interface View {
  readonly words: readonly string[];
  /** In a menu. */
  readonly label: string;
}

/** Of the whole machine. */
export const MACHINE: readonly View[] = [
  { words: ['namespaces'], label: 'Namespaces' },
  { words: ['cgroups'], label: 'cgroups' },
  { words: ['network'], label: 'Network' },
];

/** Of one container, whose name follows. */
export const CONTAINER: readonly View[] = [
  { words: ['container'], label: 'Graph' },
  { words: ['mounts'], label: 'Mounts' },
  { words: ['ids'], label: 'User and Group Ids' },
  { words: ['cgroups'], label: 'cgroups' },
  { words: ['network'], label: 'Network' },
  { words: ['stack'], label: 'Who Started It' },
];

/** Of one image, whose name follows. */
export const LAYERS: View = { words: ['image'], label: 'Layers' };

/** The words of what differs between two containers. */
export function difference(one: string, other: string): string[] {
  return ['difference', one, other];
}

/** What stands on a view's tab. */
export function tabLabel([view = '', ...targets]: readonly string[]): string {
  const name = targets.join(' and ');
  if (name === '') {
    return MACHINE.find(({ words }) => words[0] === view)?.label ?? view;
  }
  return view === 'container' || view === 'difference' ? name : `${name}: ${view}`;
}
