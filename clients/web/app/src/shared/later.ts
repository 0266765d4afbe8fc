import { type AsyncComponentLoader, defineAsyncComponent } from "vue"
import { ElMessageBox } from "./element"
import { i18n } from "./language"

/** A part of the page that is fetched when it is first drawn: once a second while it cannot be had. */
export function later(loader: AsyncComponentLoader) {
  return defineAsyncComponent({ loader, onError: (_, again) => void setTimeout(again, 1000) })
}

let asked = false

/** A part that is gone for good is one of a version that is served no more. Loading anew loses nothing of the desk. */
addEventListener("vite:preloadError", async () => {
  if (asked || !(await renewed())) return
  asked = true
  const { t } = i18n.global
  const words = { confirmButtonText: t("renewed.reload"), cancelButtonText: t("renewed.wait") }
  try {
    await ElMessageBox.confirm(t("renewed.hint"), t("renewed.title"), words)
    location.reload()
  } catch {
    // not now: who said so knows, and is not asked again
  }
})

/** Whether the page as it is served now has another script than this one. */
async function renewed(): Promise<boolean> {
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(10_000) })
    return answer.ok && !(await answer.text()).includes(new URL(import.meta.url).pathname)
  } catch {
    return false // the server is away, and comes back
  }
}
