/** The mark of the panel, and of the tabs that it opens. */

import { LabIcon } from '@jupyterlab/ui-components';

export const icon = new LabIcon({
  name: 'ctrt:containers',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 64 64">
  <g class="jp-icon3" stroke="#616161" stroke-width="5" stroke-linejoin="round">
  <rect x="4" y="10" width="56" height="44" rx="8" fill="none"/>
  <path d="M15 45V24h12l4 4h18v17z" fill="none"/></g>
</svg>`,
});
