import { type Ref, ref, type ShallowRef, shallowRef } from "vue"
import { said } from "../shared/failure"

/** A list that grows by a cursor, with what is to be said while it cannot be shown; `Rows.vue` draws its states. */
export interface List<T> {
  rows: ShallowRef<T[]>
  reading: Ref<boolean>
  failure: Ref<string>
  /** Whether there is more behind what is shown. */
  more: Ref<boolean>
  /** Read it from its beginning. What is shown stays until the answer is there. */
  read: () => Promise<void>
  /** Read on where it stops. */
  readOn: () => Promise<void>
}

/** A list read by `page`: given the cursor, null at the beginning, it answers rows and the next cursor. */
export function useList<T>(page: (cursor: string | null) => Promise<{ rows: T[]; next: string | null }>): List<T> {
  const rows = shallowRef<T[]>([])
  const reading = ref(true)
  const failure = ref("")
  const more = ref(false)
  let next: string | null = null
  let asked = 0

  async function take(cursor: string | null): Promise<void> {
    const mine = ++asked
    reading.value = true
    try {
      const found = await page(cursor)
      if (mine !== asked) return // asked anew meanwhile
      rows.value = cursor === null ? found.rows : [...rows.value, ...found.rows]
      next = found.next
      more.value = next !== null
      failure.value = ""
    } catch (error) {
      if (mine !== asked) return
      failure.value = said(error)
      if (cursor === null) rows.value = [] // they may be what was asked for before
    } finally {
      if (mine === asked) reading.value = false
    }
  }

  return { rows, reading, failure, more, read: () => take(null), readOn: () => take(next) }
}
