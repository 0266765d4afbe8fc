import { computed, type Ref, ref } from "vue"

/**
 * A value that survives a reload and is the same in all tabs of this browser: setting it writes it down. It must be
 * JSON; what cannot be read counts as `initial`.
 */
export function kept<T>(name: string, initial: T): Ref<T> {
  const key = `dialdesk:${name}`
  const value = ref(read(localStorage.getItem(key), initial)) as Ref<T>
  addEventListener("storage", (event) => {
    if (event.key === key) value.value = read(event.newValue, initial)
  })
  return computed({
    get: () => value.value,
    set(next) {
      value.value = next
      if (next === initial) localStorage.removeItem(key)
      else localStorage.setItem(key, JSON.stringify(next))
    },
  })
}

function read<T>(text: string | null, initial: T): T {
  try {
    return text === null ? initial : (JSON.parse(text) as T)
  } catch {
    return initial
  }
}
