import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { brotliCompressSync, constants, gzipSync } from "node:zlib"
import vue from "@vitejs/plugin-vue"
import { defaultClientConditions, defineConfig, type Plugin } from "vite"
import { shell } from "./shell"

const outDir = join(import.meta.dirname, "..", "dist")

/** Leaves a .br and a .gz beside what is worth compressing; the server sends them as they are. */
function compressed(): Plugin {
  return {
    name: "compressed",
    apply: "build",
    closeBundle() {
      for (const name of readdirSync(outDir, { recursive: true, encoding: "utf8" })) {
        if (!/\.(html|js|css|svg|webmanifest)$/.test(name)) continue
        const plain = readFileSync(join(outDir, name))
        if (plain.length < 512) continue
        writeFileSync(
          join(outDir, `${name}.br`),
          brotliCompressSync(plain, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: plain.length } }),
        )
        writeFileSync(join(outDir, `${name}.gz`), gzipSync(plain, { level: 9 }))
      }
    },
  }
}

/**
 * The styles of a page go into one file, beside those of all pages and of Element Plus: a part that is loaded later, and
 * tried again, must not lack its style, and no page carries another's.
 */
function styles(id: string): string | undefined {
  if (!/\.css$|[?&]type=style/.test(id)) return undefined
  if (id.includes("/node_modules/")) return "element-style"
  return `${/\/src\/(desk|phone|console)\//.exec(id)?.[1] ?? "shared"}-style`
}

export default defineConfig({
  plugins: [vue(), shell(outDir), compressed()],
  resolve: { conditions: ["dialdesk-source", ...defaultClientConditions] },
  define: {
    __VUE_OPTIONS_API__: "true", // Element Plus has components written so
    __VUE_PROD_DEVTOOLS__: "false",
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
    __VUE_I18N_FULL_INSTALL__: "false",
    __VUE_I18N_LEGACY_API__: "false",
    __INTLIFY_PROD_DEVTOOLS__: "false",
  },
  build: {
    outDir,
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 600, // kB: the charts, which are loaded by their page alone
    rollupOptions: {
      input: ["index.html", "phone.html", "console.html"],
      output: { manualChunks: styles },
    },
  },
})
