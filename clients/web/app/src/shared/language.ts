import { createI18n } from "vue-i18n"
import { en } from "./en"
import { kept } from "./kept"
import { zh } from "./zh-CN"

export type Language = "zh-CN" | "en"

/** The language chosen here, in any tab; the browser's where none was. */
export const language = kept<Language>("language", navigator.language.startsWith("zh") ? "zh-CN" : "en")

export const i18n = createI18n({
  legacy: false,
  locale: language.value,
  fallbackLocale: "en",
  messages: { "zh-CN": zh, en },
})

/** Speak `chosen` from now on. */
export function speak(chosen: Language): void {
  language.value = chosen
  i18n.global.locale.value = chosen
  document.documentElement.lang = chosen
}

document.documentElement.lang = language.value
