/** The colour of an outcome; its word stands beside it. */
export function tone(outcome: string | null): "good" | "wait" | "bad" | "" {
  if (outcome === "connected") return "good"
  if (outcome === "busy" || outcome === "missed") return "wait"
  if (outcome === "failed" || outcome === "rejected") return "bad"
  return ""
}

/** The colour of a call: while it lasts that of its stage, then that of its outcome. */
export function look(call: { status: string; outcome: string | null }): ReturnType<typeof tone> | "ring" {
  if (call.status === "ended") return tone(call.outcome)
  return call.status === "connected" ? "good" : "ring"
}
