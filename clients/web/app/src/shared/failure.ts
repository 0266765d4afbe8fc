import { Refused, Stopped, TimedOut, Unreachable } from "@dialdesk/sdk"
import { i18n } from "./language"

/** What went wrong, in words for people. The server's refusals are in the right language already. */
export function said(error: unknown): string {
  if (error instanceof Refused) return error.message
  if (error instanceof Unreachable) return i18n.global.t("failure.unreachable")
  if (error instanceof TimedOut) return i18n.global.t("failure.timedOut")
  if (error instanceof Stopped) return i18n.global.t("failure.stopped")
  return i18n.global.t("failure.unknown", { message: error instanceof Error ? error.message : String(error) })
}
