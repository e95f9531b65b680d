// Bundles the extension to dist/, with the licences of what is in the bundle, or its tests to out/ (`node build.mjs test`).
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const shared = { bundle: true, platform: "node", format: "cjs", target: "node20", logLevel: "warning" };

/** The licence texts of the packages that the files in `inputs` belong to. */
function licences(inputs) {
  const folders = inputs.map((file) => /^.*node_modules\/(@[^/]+\/)?[^/]+/.exec(file)?.[0]);
  return [...new Set(folders)].filter(Boolean).sort().map((folder) => {
    const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
    return `${folder.replace("node_modules/", "")}\n\n${readFileSync(`${folder}/${file}`, "utf8").trim()}\n`;
  });
}

if (process.argv[2] === "test") {
  const entryPoints = readdirSync("test").filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`);
  await build({ ...shared, entryPoints, outdir: "out", sourcemap: "inline", alias: { vscode: "./test/vscode.js" } });
} else {
  const made = { entryPoints: ["src/extension.ts"], outfile: "dist/extension.js", minify: true, metafile: true };
  const { metafile } = await build({ ...shared, ...made, external: ["vscode"] });
  writeFileSync("dist/licences.txt", licences(Object.keys(metafile.inputs)).join("\n----\n\n"));
}
