import { computed, type Ref, ref } from "vue"
import { decoded } from "../shared/address"

/**
 * Where in the console one is: a page, what is open of it, and how its list is filtered. All of it stands in the
 * address (`#/lines/line_1?status=active`), so a reload, a bookmark and the back button come back to it.
 */
export interface Place {
  page: string
  id: string | null
  filters: Record<string, string>
}

export const place = ref<Place>(read())

/** The address of a place, for links. */
export function address(page: string, id: string | null = null, filters: Record<string, string> = {}): string {
  const query = new URLSearchParams(Object.entries(filters).filter(([, value]) => value !== "")).toString()
  return `#/${page}${id === null ? "" : `/${encodeURIComponent(id)}`}${query === "" ? "" : `?${query}`}`
}

/** Go there; the browser's back button comes back. Filters of the same page stay, where none are given. */
export function go(page: string, id: string | null = null, filters?: Record<string, string>): void {
  const kept = page === place.value.page ? place.value.filters : {}
  location.hash = address(page, id, filters ?? kept)
}

/** A filter of the page that is open: setting it changes the address, without a step in the browser's history. */
export function filter(name: string): Ref<string> {
  return computed({
    get: () => place.value.filters[name] ?? "",
    set(value) {
      const { page, id, filters } = place.value
      history.replaceState(null, "", address(page, id, { ...filters, [name]: value ?? "" }))
      place.value = read()
    },
  })
}

addEventListener("hashchange", () => {
  place.value = read()
})

function read(): Place {
  const [path = "", query = ""] = location.hash.replace(/^#\//, "").split("?")
  const [page = "", id] = path.split("/")
  return { page, id: id ? decoded(id) : null, filters: Object.fromEntries(new URLSearchParams(query)) }
}
