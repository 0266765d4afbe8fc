import { watchEffect } from "vue"
import { kept } from "./kept"

export type Appearance = "auto" | "light" | "dark"

/** Light or dark, as chosen here or as the system has it. */
export const appearance = kept<Appearance>("appearance", "auto")

const system = matchMedia("(prefers-color-scheme: dark)")

function paint(): void {
  const dark = appearance.value === "dark" || (appearance.value === "auto" && system.matches)
  document.documentElement.classList.toggle("dark", dark)
}

watchEffect(paint)
system.addEventListener("change", paint)
