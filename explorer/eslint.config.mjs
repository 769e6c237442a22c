// The rules for the page's JavaScript: ESLint's recommended ones.
import js from "@eslint/js";

// What a browser provides
const browserGlobals = [
  "ImageData",
  "ResizeObserver",
  "addEventListener",
  "atob",
  "cancelAnimationFrame",
  "clearTimeout",
  "devicePixelRatio",
  "document",
  "getComputedStyle",
  "history",
  "innerHeight",
  "location",
  "matchMedia",
  "navigator",
  "performance",
  "requestAnimationFrame",
  "setTimeout",
];

export default [
  {
    files: ["*.js"],
    ...js.configs.recommended,
    languageOptions: {
      ecmaVersion: 2023,
      sourceType: "script",
      globals: Object.fromEntries(browserGlobals.map((name) => [name, "readonly"])),
    },
  },
];
