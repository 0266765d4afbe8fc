/** The times of a client (milliseconds) and its bounds; tests shorten them. */

export interface Timing {
  /** A request over HTTP, and the opening of a socket. */
  readonly timeout: number
  /** Nothing heard for so long, though two heartbeats went out: the socket is dead. */
  readonly silence: number
  readonly backoffBase: number
  readonly backoffCap: number
  /** A session that stood for so long makes the failures before it forgotten. */
  readonly steadyAfter: number
  readonly resendAfter: number
  readonly resendCap: number
  /** Reports that may be unacknowledged at a time. */
  readonly inFlight: number
  /** Bytes that may wait to be sent; with more the server does not read, and the socket is dropped. */
  readonly outgoing: number
  /** Bytes of the largest recording that goes in one request; a larger one goes in parts, to be resumed. */
  readonly uploadWhole: number
}

export const USUAL: Timing = {
  timeout: 10_000,
  silence: 75_000,
  backoffBase: 500,
  backoffCap: 30_000,
  steadyAfter: 5_000,
  resendAfter: 10_000,
  resendCap: 300_000,
  inFlight: 16,
  outgoing: 1024 * 1024,
  uploadWhole: 8 * 1024 * 1024,
}

/** Milliseconds to wait: anything up to twice as much as last time, so that many clients do not come as one. */
export function fullJitter(failures: number, timing: Timing): number {
  return Math.random() * Math.min(timing.backoffCap, timing.backoffBase * 2 ** Math.min(failures, 16))
}
