/** What a key may do that no user does: act for an agent. */
const ACTING = ["sessions.exchange", "calls.dial_for", "devices.bind_for"]
/** A key makes no keys. */
const NEVER = "api_keys.manage"

/** Groups of scopes, by what their names begin with; what is new to this page is in the last. */
const GROUPS = {
  calls: ["calls"],
  recordings: ["recordings"],
  customers: ["customers"],
  lines: ["lines", "extensions", "do_not_call"],
  people: ["users", "teams", "devices"],
} as const

export type ScopeGroup = "acting" | keyof typeof GROUPS | "tenant"

/** The scopes that somebody of these permissions can give a key, in groups. */
export function scopesToGive(permissions: readonly string[]): { group: ScopeGroup; scopes: string[] }[] {
  const found = new Map<ScopeGroup, string[]>([["acting", [...ACTING]]])
  const names = Object.keys(GROUPS) as (keyof typeof GROUPS)[]
  for (const group of [...names, "tenant" as const]) found.set(group, [])
  for (const scope of permissions) {
    if (scope === NEVER || ACTING.includes(scope)) continue
    const [kind = ""] = scope.split(".")
    found.get(names.find((name) => (GROUPS[name] as readonly string[]).includes(kind)) ?? "tenant")?.push(scope)
  }
  return [...found].filter(([, scopes]) => scopes.length > 0).map(([group, scopes]) => ({ group, scopes }))
}
