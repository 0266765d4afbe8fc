/** A day as `YYYY-MM-DD`, by this computer's calendar: today, or so many days from it. */
export function day(fromToday = 0): string {
  const date = new Date()
  date.setDate(date.getDate() + fromToday)
  const two = (n: number) => String(n).padStart(2, "0")
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`
}

/** The moment at which a day begins here, or so many days later. */
export function begin(of: string, later = 0): string {
  const date = new Date(`${of}T00:00`)
  date.setDate(date.getDate() + later)
  return date.toISOString()
}
