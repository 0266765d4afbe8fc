import { i18n } from "../shared/language"
import { ElMessage, ElMessageBox } from "./element"

interface Question {
  title: string
  /** What will happen. */
  text: string
  /** The word on the button that does it. */
  act: string
  /** It cannot be taken back. */
  grave?: boolean
}

/** Ask before something is done; false where the person thought better of it. */
export async function sure({ title, text, act, grave }: Question): Promise<boolean> {
  try {
    await ElMessageBox.confirm(text, title, {
      confirmButtonText: act,
      cancelButtonText: i18n.global.t("console.cancel"),
      confirmButtonClass: grave ? "grave" : "",
    })
    return true
  } catch {
    return false
  }
}

/** Ask for a reason before something is done; null where the person thought better of it. */
export async function reason({ title, text, act, grave }: Question): Promise<string | null> {
  try {
    const { value } = await ElMessageBox.prompt(text, title, {
      confirmButtonText: act,
      cancelButtonText: i18n.global.t("console.cancel"),
      confirmButtonClass: grave ? "grave" : "",
      inputValidator: (given) => Boolean(given?.trim()) || i18n.global.t("console.required"),
    })
    return value.trim()
  } catch {
    return null
  }
}

/** Say in passing that something is done. */
export function told(message: string): void {
  ElMessage.success({ message, duration: 2000 })
}

/** Put a text onto the clipboard, and say so. */
export async function copy(text: string): Promise<void> {
  if (navigator.clipboard) await navigator.clipboard.writeText(text)
  else copyByHand(text)
  told(i18n.global.t("console.copied"))
}

/** As it is done in pages that were not fetched over TLS: they have no clipboard. */
function copyByHand(text: string): void {
  const field = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }))
  field.select()
  document.execCommand("copy")
  field.remove()
}
