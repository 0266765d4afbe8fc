import { ref } from "vue"

/** Whether a newer version of the page waits to be opened; the one that is open goes on as it is. */
export const renewed = ref(false)

/** Have the page kept by the browser, so that it opens without a network. A page over plain HTTP is not kept. */
export function keepPage(): void {
  if (!import.meta.env.PROD || !("serviceWorker" in navigator)) return
  const { serviceWorker } = navigator
  const mine = document.querySelector<HTMLScriptElement>("script[type=module]")?.src
  serviceWorker.addEventListener("message", ({ data: newest }) => {
    renewed.value = mine !== new URL(String(newest), location.origin).href
  })
  const nothing = () => {} // the server is away, or the browser keeps nothing: the page works all the same
  serviceWorker.register("/phone-worker.js", { scope: "/phone" }).then((registration) => {
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) registration.update().catch(nothing)
    })
  }, nothing)
}
