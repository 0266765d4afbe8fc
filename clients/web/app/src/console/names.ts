import { shallowReactive } from "vue"
import type { Inside } from "./inside"

/** The names of people, by id, as far as they were asked for and are within reach. */
export interface Names {
  of: (id: string) => string | undefined
  /** Learn the names of these people; whom one may not see stays without. */
  learn: (ids: Iterable<string>) => Promise<void>
}

export function useNames({ session, me }: Inside): Names {
  const known = shallowReactive(new Map([[me.id, me.name]]))
  const asked = new Set([me.id])

  async function ask(id: string): Promise<void> {
    asked.add(id)
    try {
      const { user } = await session.ask("GET /api/v1/admin/users/{user_id}", { path: { user_id: id } })
      known.set(id, user.name)
    } catch {
      // its id stands there instead
    }
  }

  return {
    of: (id) => known.get(id),
    learn: async (ids) => {
      await Promise.all([...new Set(ids)].filter((id) => !asked.has(id)).map(ask))
    },
  }
}
