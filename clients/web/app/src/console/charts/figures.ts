import type { StatisticsAnswer, Tally, TallyRow } from "@dialdesk/sdk"

/** What becomes of calls, in the order in which a bar is built: each call is in one of them. */
export const SHARES = ["connected", "assumed", "unknown", "missed", "running"] as const
export type Share = (typeof SHARES)[number]

export interface Day {
  /** As `YYYY-MM-DD`. */
  day: string
  tally: Tally
}

/** The groups that figures are told by. */
export const GROUPS = ["day", "agent", "team"] as const
export type Group = (typeof GROUPS)[number]

const NOTHING: Tally = {
  calls: 0,
  finished: 0,
  connected: 0,
  connectedAssumed: 0,
  unknown: 0,
  connectRate: null,
  talkSeconds: 0,
  talkSecondsAssumed: 0,
  averageTalkSeconds: null,
}

/** Each day of the span, also those without calls, of which the answer has no row. */
export function eachDay({ from, to, rows }: StatisticsAnswer): Day[] {
  const told = new Map<string | undefined, TallyRow>(rows.map((row) => [row.day, row]))
  const days: Day[] = []
  const date = new Date(`${from}T00:00Z`)
  for (const last = Date.parse(`${to}T00:00Z`); date.getTime() <= last; date.setUTCDate(date.getUTCDate() + 1)) {
    const day = date.toISOString().slice(0, 10)
    days.push({ day, tally: told.get(day) ?? NOTHING })
  }
  return days
}

export function shares(tally: Tally): Record<Share, number> {
  return {
    connected: tally.connected,
    assumed: tally.connectedAssumed,
    unknown: tally.unknown,
    missed: tally.finished - tally.connected - tally.connectedAssumed - tally.unknown,
    running: tally.calls - tally.finished,
  }
}

/** `85.7%`; a dash where nothing is known. */
export function percent(rate: number | null, language: string): string {
  return rate === null ? "–" : rate.toLocaleString(language, { style: "percent", maximumFractionDigits: 1 })
}

/** A day as people say it, with `weekday` where there is room. */
export function spoken(day: string, language: string, weekday = false): string {
  return new Date(`${day}T00:00Z`).toLocaleDateString(language, {
    timeZone: "UTC",
    month: weekday ? "short" : "numeric",
    day: "numeric",
    ...(weekday ? { weekday: "short" } : {}),
  })
}
