/** The ways in which something that was asked for does not come about. */

/**
 * The server understood and said no. `code` is stable (docs/errors.md) and `message` is for people; `retry` tells
 * whether the same request, sent again unchanged, may succeed; `status` is the HTTP status, 0 where the refusal came
 * over a socket.
 */
export class Refused extends Error {
  override readonly name = "Refused"

  constructor(
    readonly code: string,
    message: string,
    readonly retry: boolean,
    readonly status = 0,
    readonly details: Record<string, unknown> = {},
    /** Milliseconds for which the server asks to be left alone. */
    readonly retryAfter = 0,
  ) {
    super(message || code)
  }
}

/** No answer came: the server cannot be reached, or took too long. Whether it acted is not known. */
export class Unreachable extends Error {
  override readonly name = "Unreachable"
}

/** A request over the socket was not answered in time. Whether the server acted is not known. */
export class TimedOut extends Error {
  override readonly name = "TimedOut"
}

/**
 * The server does not want this client back: a close code of 4500 to 4999, or a credential that is refused for good.
 * `code` is the close code or the HTTP status, `reason` what was told; for an HTTP status, the error code.
 */
export class Stopped extends Error {
  override readonly name = "Stopped"

  constructor(
    readonly code: number,
    readonly reason: string,
  ) {
    super(`${reason || "the server ended the connection for good"} (${code})`)
  }
}
