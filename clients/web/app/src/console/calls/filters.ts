import type { Asked, Outcome } from "@dialdesk/sdk"
import { computed, type Ref } from "vue"
import { begin, day } from "../days"
import { filter } from "../place"

type Query = Asked<"GET /api/v1/calls/export">["query"]

export const OUTCOMES: Outcome[] = ["connected", "missed", "busy", "rejected", "failed", "cancelled", "unknown"]
export const METHODS = ["mobile", "cloud", "sip"] as const
export const RECORDINGS = ["ready", "awaited", "none", "failed", "expired", "deleted"] as const

/**
 * What the log shows, kept in the address, and a customer's number, which is not: a browser remembers addresses.
 * `query` is how it is asked for, by the list and by the export alike.
 */
export function useFilters(phone: Ref<string>) {
  const from = filter("from")
  const to = filter("to")
  const outcome = filter("outcome")
  const user = filter("user")
  const team = filter("team")
  const method = filter("method")
  const recording = filter("recording")
  const first = computed({ get: () => from.value || day(-6), set: (value) => (from.value = value) })
  const last = computed({ get: () => to.value || day(), set: (value) => (to.value = value) })
  const query = computed<Query>(() => ({
    from: begin(first.value),
    ...(to.value ? { to: begin(to.value, 1) } : {}), // else the page may be open when the next day begins
    ...(outcome.value ? { outcome: [outcome.value as Outcome] } : {}),
    ...(user.value ? { userId: user.value } : {}),
    ...(team.value ? { teamId: team.value } : {}),
    ...(method.value ? { callMethod: method.value as (typeof METHODS)[number] } : {}),
    ...(recording.value ? { recording: [recording.value as (typeof RECORDINGS)[number]] } : {}),
    ...(phone.value.trim() ? { customerPhone: phone.value.trim() } : {}),
  }))
  return { first, last, outcome, user, team, method, recording, query }
}
