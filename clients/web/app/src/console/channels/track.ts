import type { Footprint, Session } from "@dialdesk/sdk"

/** Tell the log what was done on this page (seed 000, 二.1). Nothing depends on it: what fails is let go. */
export function track(session: Session, event: Footprint["event"]): void {
  session.ask("POST /api/v1/track", { body: { event } }).catch(() => undefined)
}
