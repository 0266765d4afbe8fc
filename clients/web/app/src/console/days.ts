import { ref } from "vue"

const HERE = Intl.DateTimeFormat().resolvedOptions().timeZone

/** Whose days are meant: the tenant's, as in charts and files; this computer's until `daysOf` has told. */
export const zone = ref(HERE)

/** Whether these days are another clock's than that of whoever looks. */
export const elsewhere = () => zone.value !== HERE

/** Mean the days of a time zone from now on; of this computer where the browser does not know the zone. */
export function daysOf(name: string): void {
  try {
    zone.value = Intl.DateTimeFormat("en", { timeZone: name }).resolvedOptions().timeZone
  } catch {
    zone.value = HERE
  }
}

/** Today as `YYYY-MM-DD`, or so many days from it. */
export function day(fromToday = 0): string {
  const now = Date.now()
  return new Date(now + ahead(now) + fromToday * 86_400_000).toISOString().slice(0, 10)
}

/** The moment at which a day begins, or so many days later. */
export function begin(of: string, later = 0): string {
  const midnight = Date.parse(`${of}T00:00Z`) + later * 86_400_000
  const near = midnight - ahead(midnight)
  return new Date(midnight - ahead(near)).toISOString() // clocks may be set between the two
}

/** Milliseconds by which the clocks there are ahead of UTC. */
function ahead(at: number): number {
  const told = Intl.DateTimeFormat("en", {
    timeZone: zone.value,
    hourCycle: "h23",
    year: "numeric",
    month: "numeric",
    day: "numeric",
    hour: "numeric",
    minute: "numeric",
    second: "numeric",
  }).formatToParts(at)
  const of = (type: Intl.DateTimeFormatPartTypes) => Number(told.find((part) => part.type === type)?.value)
  const wall = Date.UTC(of("year"), of("month") - 1, of("day"), of("hour"), of("minute"), of("second"))
  return wall - Math.floor(at / 1000) * 1000
}
