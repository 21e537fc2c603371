// Builds the console into `dist`, which the daemon compiles in.
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

const dist = join(import.meta.dirname, "dist");

/** Gathers the licences of what is bundled, which go with it. */
const licences: Plugin = {
  name: "licences",
  apply: "build",
  generateBundle() {
    const packages = [...this.getModuleIds()].map((id) => id.match(/^.*\/node_modules\/(@[^/]+\/[^/]+|[^/@]+)/)?.[0]);
    const texts = [...new Set(packages)].sort().flatMap((folder) => {
      if (!folder) return [];
      const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Record<string, string>;
      const file = ["LICENSE", "LICENSE.md", "license"].map((one) => join(folder, one)).find((one) => existsSync(one));
      return [`${name} ${version} (${license})\n\n${file ? readFileSync(file, "utf8").trim() : ""}\n`];
    });
    this.emitFile({ type: "asset", fileName: "licences.txt", source: texts.join(`\n${"-".repeat(80)}\n\n`) });
  },
};

/** Empties `dist` but for its `.gitignore`, and puts a compressed copy beside every file that gains by it. */
const served: Plugin = {
  name: "served",
  apply: "build",
  buildStart() {
    for (const name of readdirSync(dist)) {
      if (name !== ".gitignore") rmSync(join(dist, name), { recursive: true });
    }
  },
  closeBundle() {
    for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !/\.(html|js|css|svg|txt)$/.test(entry.name)) continue;
      const path = join(entry.parentPath, entry.name);
      const plain = readFileSync(path);
      const packed = gzipSync(plain, { level: 9 });
      if (packed.length < plain.length * 0.9) writeFileSync(`${path}.gz`, packed);
    }
  },
};

export default defineConfig({
  plugins: [svelte(), licences, served],
  build: { outDir: dist, emptyOutDir: false, target: "es2022", modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
  server: { proxy: { "/api": "http://127.0.0.1:8080" } },
});
