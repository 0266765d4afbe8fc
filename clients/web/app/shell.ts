import { createHash } from "node:crypto"
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Plugin, Rollup } from "vite"

const NAME = "phone-worker.js"
const STANDING = ["phone.webmanifest", "icon.svg"]

/** Builds the phone page's worker, and writes into it which files the page is made of. */
export function shell(outDir: string): Plugin {
  return {
    name: "shell",
    apply: "build",
    buildStart() {
      this.emitFile({ type: "chunk", id: "worker/phone-worker.ts", fileName: NAME })
    },
    writeBundle(_, bundle) {
      const page = Object.values(bundle).find(
        (file) => file.type === "chunk" && file.facadeModuleId?.endsWith("/phone.html"),
      )
      if (page === undefined) throw new Error("there is no phone page")
      const files = [...reached(page.fileName, bundle), ...STANDING]
      const version = createHash("sha256")
      for (const name of ["phone.html", ...files]) version.update(readFileSync(join(outDir, name)))
      const told = { version: version.digest("hex").slice(0, 16), files: files.map((name) => `/${name}`) }
      const path = join(outDir, NAME)
      writeFileSync(path, readFileSync(path, "utf8").replace("__SHELL__", JSON.stringify(told)))
    },
  }
}

/** A chunk, all that it loads at once or later, and their styles. */
function reached(start: string, bundle: Rollup.OutputBundle): Set<string> {
  const names = new Set([start])
  for (const name of names) {
    const file = bundle[name]
    if (file?.type !== "chunk") continue
    for (const next of [...file.imports, ...file.dynamicImports, ...(file.viteMetadata?.importedCss ?? [])])
      names.add(next)
  }
  return names
}
