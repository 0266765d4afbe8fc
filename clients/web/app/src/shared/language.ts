import { watch } from "vue"
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

/** Words under names, in as many folds as one likes. */
export interface Words {
  [name: string]: string | Words
}

/** The same names, with other words. */
type Said<T> = { [Name in keyof T]: T[Name] extends string ? string : Said<T[Name]> }

/** Learn the words of a part that is loaded when it is wanted; they are asked for as `part.name`. */
export function learn<T extends Words>(part: string, words: { "zh-CN": T; en: Said<NoInfer<T>> }): void {
  i18n.global.mergeLocaleMessage("zh-CN", { [part]: words["zh-CN"] })
  i18n.global.mergeLocaleMessage("en", { [part]: words.en })
}

/** It may be chosen in another tab too: whatever speaks follows it. */
watch(
  language,
  (chosen) => {
    i18n.global.locale.value = chosen
    document.documentElement.lang = chosen
  },
  { immediate: true },
)
