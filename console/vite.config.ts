// Builds the console into `dist`, which the daemon compiles in.
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

const dist = join(import.meta.dirname, "dist");

type Package = { folder: string; name: string; version: string; license: string };

/** The packages of which something is bundled, in order. */
const packagesOf = (modules: Iterable<string>): Package[] => {
  const folders = [...modules].map((id) => id.match(/^.*\/node_modules\/(@[^/]+\/[^/]+|[^/@]+)/)?.[0]);
  return [...new Set(folders)].sort().flatMap((folder) => {
    return folder ? [{ folder, ...JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) } as Package] : [];
  });
};

const licencesOf = (packages: Package[]): string => {
  const texts = packages.map(({ folder, name, version, license }) => {
    const file = ["LICENSE", "LICENSE.md", "license"].map((one) => join(folder, one)).find((one) => existsSync(one));
    return `${name} ${version} (${license})\n\n${file ? readFileSync(file, "utf8").trim() : ""}\n`;
  });
  return texts.join(`\n${"-".repeat(80)}\n\n`);
};

/** What is bundled, as a CycloneDX 1.5 document. */
const billOf = (packages: Package[]): string => {
  const lock = JSON.parse(readFileSync(join(import.meta.dirname, "package-lock.json"), "utf8"));
  const components = packages.map(({ name, version, license }) => {
    const [algorithm, sum] = (lock.packages[`node_modules/${name}`].integrity as string).split(/-(.*)/s);
    return {
      type: "library",
      name,
      version,
      purl: `pkg:npm/${name.replace("@", "%40")}@${version}`,
      licenses: [{ expression: license }],
      hashes: [{ alg: algorithm.replace("sha", "SHA-"), content: Buffer.from(sum, "base64").toString("hex") }],
    };
  });
  const metadata = { component: { type: "application", name: "sluiced-console" } };
  return JSON.stringify({ bomFormat: "CycloneDX", specVersion: "1.5", version: 1, metadata, components }, null, 2);
};

/** Says what is bundled: the licences, which are served with it, and a bill of materials, which is hidden from the daemon. */
const materials: Plugin = {
  name: "materials",
  apply: "build",
  generateBundle() {
    const packages = packagesOf(this.getModuleIds());
    this.emitFile({ type: "asset", fileName: "licences.txt", source: licencesOf(packages) });
    this.emitFile({ type: "asset", fileName: ".console.cdx.json", source: billOf(packages) });
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
  plugins: [svelte(), materials, served],
  build: { outDir: dist, emptyOutDir: false, target: "es2022", modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
  server: { proxy: { "/api": "http://127.0.0.1:8080" } },
});
