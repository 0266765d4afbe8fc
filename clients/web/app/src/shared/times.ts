import { onScopeDispose, type Ref, ref } from "vue"

/** `02:35`, from an hour on `1:02:35`. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds))
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const two = (n: number) => String(n).padStart(2, "0")
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${two(m)}:${two(s)}`
}

/** A moment as people say it: the time today, the day before that. */
export function when(at: string | number | null | undefined, language: string): string {
  if (at === null || at === undefined) return "–"
  const date = new Date(at)
  const today = new Date().toDateString() === date.toDateString()
  const year = new Date().getFullYear() === date.getFullYear()
  return date.toLocaleString(language, {
    ...(today ? {} : { month: "short", day: "numeric", ...(year ? {} : { year: "numeric" }) }),
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
  })
}

/** The present, epoch ms by `clock`, told four times a second so that no second is skipped. */
export function now(by: () => number = Date.now): Ref<number> {
  const time = ref(by())
  const timer = setInterval(() => {
    time.value = by()
  }, 250)
  onScopeDispose(() => clearInterval(timer))
  return time
}
