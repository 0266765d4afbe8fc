/** Requests to the API at one origin, typed by what the server's OpenAPI document says of each operation. */

import { Refused, Unreachable } from "./failures.js"
import { type Operations, RETRIED } from "./generated.js"
import { USUAL } from "./timing.js"

/** `"METHOD /path"`, as in the OpenAPI document. */
export type Operation = keyof Operations

/** Operations that answer JSON; the others answer files, which are to be fetched. */
export type JsonOperation = { [O in Operation]: Operations[O]["answer"] extends Response ? never : O }[Operation]

export type Answer<O extends Operation> = Operations[O]["answer"]

/** What may be said beside: `timeout` (milliseconds) bounds the request. */
export interface Beside {
  signal?: AbortSignal
  timeout?: number
  headers?: Record<string, string>
}

/** What an operation takes: `path`, `query`, `body`, and `key`, the Idempotency-Key, as far as it has them. */
export type Asked<O extends Operation> = Omit<Operations[O], "answer"> & Beside

/** The arguments behind the operation: none are needed where nothing is. */
export type Rest<O extends Operation> =
  Record<never, never> extends Omit<Operations[O], "answer"> ? [asked?: Asked<O>] : [asked: Asked<O>]

interface AnyAsked extends Beside {
  path?: Record<string, string>
  query?: Record<string, unknown>
  body?: unknown
  key?: string
}

/** Send a request and return the object that answers it. Throws Refused and Unreachable. */
export async function ask<O extends JsonOperation>(origin: string, operation: O, ...rest: Rest<O>): Promise<Answer<O>> {
  const asked: AnyAsked = rest[0] ?? {}
  return inTime(
    origin,
    asked,
    async (signal) => (await read(await send(origin, operation, asked, signal))) as Answer<O>,
  )
}

/**
 * Send a request and return its answer as it comes: a file. `timeout` and `signal` count until it begins. Throws
 * Refused and Unreachable.
 */
export async function fetchFrom<O extends Operation>(
  origin: string,
  operation: O,
  ...rest: Rest<O>
): Promise<Response> {
  const asked: AnyAsked = rest[0] ?? {}
  return inTime(origin, asked, async (signal) => {
    const response = await send(origin, operation, asked, signal)
    if (!response.ok) await read(response)
    return response
  })
}

async function send(origin: string, operation: string, asked: AnyAsked, signal: AbortSignal): Promise<Response> {
  const [method, path] = operation.split(" ") as [string, string]
  const [body, type] = encoded(asked.body)
  const headers: Record<string, string> = { ...asked.headers }
  if (type !== undefined) headers["Content-Type"] = type
  if (asked.key !== undefined) headers["Idempotency-Key"] = asked.key
  const url = origin + filled(path, asked.path) + search(asked.query)
  return fetch(url, { method, headers, body: body ?? null, signal, credentials: "omit" })
}

/** Do something with a signal that ends it at its deadline, or when the asker gives up; what fails is Unreachable. */
async function inTime<T>(origin: string, asked: AnyAsked, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  asked.signal?.throwIfAborted()
  const end = new AbortController()
  const timer = setTimeout(() => end.abort(new Error("no answer in time")), asked.timeout ?? USUAL.timeout)
  const giveUp = () => end.abort(asked.signal?.reason)
  asked.signal?.addEventListener("abort", giveUp)
  try {
    return await work(end.signal)
  } catch (error) {
    if (error instanceof Refused || asked.signal?.aborted) throw error
    throw new Unreachable(`${origin} does not answer`, { cause: error })
  } finally {
    clearTimeout(timer)
    asked.signal?.removeEventListener("abort", giveUp)
  }
}

function filled(path: string, values: Record<string, string> | undefined): string {
  return path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(values?.[name] ?? ""))
}

function search(query: Record<string, unknown> | undefined): string {
  const given = new URLSearchParams()
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null) given.append(name, String(one))
    }
  }
  const text = given.toString()
  return text === "" ? "" : `?${text}`
}

function encoded(body: unknown): [BodyInit | undefined, string | undefined] {
  if (body === undefined) return [undefined, undefined]
  if (body instanceof FormData) return [body, undefined]
  if (body instanceof Blob) return [body, body.type || "application/octet-stream"]
  if (typeof body === "string") return [body, "text/csv"]
  return [JSON.stringify(body), "application/json"]
}

/** Read the object of an answer. Throws Refused where it is an error, or not ours. */
async function read(response: Response): Promise<unknown> {
  const retryAfter = 1000 * (Number(response.headers.get("Retry-After")) || 0) // a date would need a right clock
  let body: Record<string, unknown>
  try {
    body = (await response.json()) as Record<string, unknown>
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error // it was cut off
    const told = "the answer is not ours; is a proxy in between?"
    throw new Refused(`HTTP_${response.status}`, told, response.status >= 500, response.status, {}, retryAfter)
  }
  if (response.ok && body.success !== false) return body
  const code = String(body.error ?? body.code ?? `HTTP_${response.status}`)
  const details = (body.details ?? {}) as Record<string, unknown>
  const retry = RETRIED.has(code) || response.status === 429
  throw new Refused(code, String(body.message ?? ""), retry, response.status, details, retryAfter)
}
