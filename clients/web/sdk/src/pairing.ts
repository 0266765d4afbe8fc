/** The code by which a phone is bound: what the camera saw, or what a person typed. */

export interface BindCode {
  token: string
  /** Where the server is; a typed code does not tell. */
  origin?: string
}

/** The text is no code that binds a phone. */
export class NotACode extends Error {
  override readonly name = "NotACode"
}

const HTTP: Record<string, string> = { "wss:": "https:", "ws:": "http:" }

/** Read the text of a QR code, or eight typed characters; spaces, dashes and case do not matter. Throws NotACode. */
export function readCode(text: string): BindCode {
  if (text.trimStart().startsWith("{")) return readPayload(text)
  const token = text.toUpperCase().replace(/[\s-]/g, "")
  if (!/^[0-9A-Z]{8}$/.test(token)) throw new NotACode("neither a QR code that binds a phone nor eight characters")
  return { token }
}

function readPayload(text: string): BindCode {
  let payload: { action?: unknown; serverUrl?: unknown; token?: unknown }
  try {
    payload = JSON.parse(text)
  } catch (error) {
    throw new NotACode("this QR code is not whole", { cause: error })
  }
  const { action, serverUrl, token } = payload
  if (action !== "bind_device" || typeof serverUrl !== "string" || typeof token !== "string") {
    throw new NotACode("this QR code does not bind a phone")
  }
  return { token, origin: originOf(serverUrl) }
}

/**
 * The HTTP origin that belongs to a WebSocket URL: `wss://host/ws` gives `https://host`. Throws NotACode for any other
 * scheme: a guess could send the token in the clear.
 */
export function originOf(socketUrl: string): string {
  const url = URL.canParse(socketUrl) ? new URL(socketUrl) : null
  const scheme = HTTP[url?.protocol ?? ""]
  if (url === null || scheme === undefined || url.host === "") throw new NotACode(`not a WebSocket URL: ${socketUrl}`)
  return `${scheme}//${url.host}`
}
