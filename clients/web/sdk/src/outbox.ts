/** A phone's reports on their way: in order, so many at a time, again and again until the server has them. */

import { elapsed, type Link } from "./connection.js"
import type { FromPhone } from "./generated.js"
import type { Report } from "./memory.js"
import type { Timing } from "./timing.js"

interface UnderWay {
  againAt: number
  times: number
}

/** Sends what `unacked` holds while a session stands, from `open` to `close`, and looks again when it has changed. */
export class Outbox {
  readonly #underWay = new Map<string, UnderWay>()
  #link: Link<FromPhone> | null = null
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(
    private readonly unacked: () => ReadonlyMap<string, Report>,
    private readonly timing: Timing,
  ) {}

  /** A session stands: send the oldest. */
  open(link: Link<FromPhone>): void {
    this.#link = link
    this.look()
  }

  /** The socket is gone; what was under way on it counts as not sent. */
  close(): void {
    this.#link = null
    this.#underWay.clear()
    clearTimeout(this.#timer)
  }

  /** Send a report that was made before once more, acknowledged or not; one whose turn has not come waits for it. */
  repeat(report: Report): void {
    const waits = this.unacked().has(report.messageId) && !this.#underWay.has(report.messageId)
    if (!waits) this.#post(report)
  }

  /** A report was written down, or settled: send what may be sent now. */
  look(): void {
    if (this.#link === null) return
    const unacked = this.unacked()
    for (const messageId of this.#underWay.keys()) {
      if (!unacked.has(messageId)) this.#underWay.delete(messageId)
    }
    const now = elapsed()
    for (const [messageId, report] of unacked) {
      const sent = this.#underWay.get(messageId)
      if (sent === undefined && this.#underWay.size >= this.timing.inFlight) break
      if (sent !== undefined && sent.againAt > now) continue
      const times = (sent?.times ?? 0) + 1
      const pause = Math.min(this.timing.resendCap, this.timing.resendAfter * 2 ** Math.min(times - 1, 16))
      this.#underWay.set(messageId, { againAt: now + pause, times })
      this.#post(report)
    }
    clearTimeout(this.#timer)
    const next = Math.min(...[...this.#underWay.values()].map((sent) => sent.againAt))
    if (Number.isFinite(next)) this.#timer = setTimeout(() => this.look(), Math.max(0, next - now))
  }

  #post({ type, data, messageId, timestamp }: Report): void {
    this.#link?.send(type, data, messageId, timestamp)
  }
}
