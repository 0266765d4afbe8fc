import type { Profile, Session } from "@dialdesk/sdk"
import { type InjectionKey, inject } from "vue"

/** Who is inside the console, and the requests made in their name. */
export interface Inside {
  session: Session
  me: Profile
}

export const INSIDE: InjectionKey<Inside> = Symbol("inside")

/** For the pages: the session to ask with, who is signed in, and whether they hold a permission now. */
export function useInside(): Inside & { may: (permission: string) => boolean } {
  const inside = inject(INSIDE)
  if (!inside) throw new Error("outside of the console")
  return { session: inside.session, me: inside.me, may: (permission) => inside.me.permissions.includes(permission) }
}
