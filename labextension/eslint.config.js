import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

// Pictures may come from an untrusted notebook: text reaches the page as text only.
const MARKUP = ['innerHTML', 'outerHTML', 'insertAdjacentHTML', 'setHTMLUnsafe', 'srcdoc'];

export default defineConfig(
  globalIgnores(['dist/', 'lib/']),
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { project: './tsconfig.json' } },
    rules: {
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-eval': 'error',
      'no-restricted-properties': [
        'error',
        ...MARKUP.map((property) => ({ property, message: 'Set textContent instead.' })),
      ],
    },
  },
  {
    files: ['src/view/**'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [{ group: ['@jupyterlab/*', '@lumino/*'], message: 'The view stands alone.' }],
        },
      ],
    },
  },
  {
    // node's test runner gives back promises that it awaits itself
    files: ['test/**'],
    rules: { '@typescript-eslint/no-floating-promises': 'off' },
  },
);
