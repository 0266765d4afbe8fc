import type { CallRecord, Session } from "@dialdesk/sdk"
import { ref } from "vue"

const AHEAD = 60_000
const MOST = 100

/** Follow-ups that an agent planned: how many are due, and told the moment one comes due. */
export class Reminders {
  /** How many are due; `MOST` stands for that many or more. */
  readonly due = ref(0)
  private known: Set<string> | null = null
  private timer: ReturnType<typeof setTimeout> | undefined
  private closed = false

  /** `tell` is given those that have come due since the last reading: none of those that were due at the first. */
  constructor(
    private readonly session: Session,
    private readonly userId: string,
    private readonly serverTime: () => number,
    private readonly tell: (calls: CallRecord[]) => void,
  ) {}

  /** Read them, now and whenever one comes due, and once a minute: others may plan and complete them too. */
  async read(): Promise<void> {
    clearTimeout(this.timer)
    let pause = AHEAD
    try {
      const now = this.serverTime()
      const { calls } = await this.session.ask("GET /api/v1/calls/follow-ups", {
        query: { userId: this.userId, limit: MOST, before: new Date(now + AHEAD).toISOString() },
      })
      const due = calls.filter((call) => at(call) <= this.serverTime())
      const fresh = this.known === null ? [] : due.filter((call) => !this.known?.has(key(call)))
      this.known = new Set(due.map(key))
      this.due.value = due.length
      const next = calls.find((call) => at(call) > this.serverTime())
      if (next) pause = at(next) - this.serverTime() + 50
      if (fresh.length > 0) this.tell(fresh)
    } catch {
      // the badge stays as it was; the connection bar says what is wrong
    }
    clearTimeout(this.timer) // another reading may have begun meanwhile
    if (!this.closed) this.timer = setTimeout(() => void this.read(), pause)
  }

  close(): void {
    this.closed = true
    clearTimeout(this.timer)
  }
}

function at(call: CallRecord): number {
  return Date.parse(call.followUp?.nextFollowUpAt ?? "")
}

function key(call: CallRecord): string {
  return `${call.callId} ${call.followUp?.nextFollowUpAt}`
}
