import { ref } from "vue"
import { decoded } from "../shared/address"

export const TABS = ["customers", "due", "unrecorded", "log"] as const
export type Tab = (typeof TABS)[number]

/** Where in the desk one is: a list, and what is open of it. It stands in the address, so a reload comes back to it. */
export interface Place {
  tab: Tab
  id: string | null
}

export const place = ref<Place>(read())

/** Go there; the browser's back button comes back. */
export function go(tab: Tab, id: string | null = null): void {
  location.hash = id === null ? `/${tab}` : `/${tab}/${encodeURIComponent(id)}`
}

addEventListener("hashchange", () => {
  place.value = read()
})

function read(): Place {
  const [, tab, id] = location.hash.replace(/^#/, "").split("/")
  const known = TABS.find((name) => name === tab) ?? "customers"
  return { tab: known, id: id ? decoded(id) : null }
}
