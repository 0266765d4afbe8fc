/** What the tests stand on: a real server (tests/clients/test_sdk.py starts it), agents of their own, and waiting. */

import assert from "node:assert/strict"
import { randomBytes } from "node:crypto"
import { after } from "node:test"
import { Desk, type EventType, newId, Session, type ToAgent, type Told } from "../src/index.js"
import { MemoryStore, Phone, type PhoneOptions, type Store } from "../src/phone.js"
import { type Line, openLine } from "./line.js"

const DEADLINE = 20_000
const TIMING = { backoffBase: 50, backoffCap: 500, resendAfter: 1000, silence: 8000 }

export const ORIGIN = required("DIALDESK_ORIGIN")
const ADMIN = { username: required("DIALDESK_ADMIN"), password: required("DIALDESK_PASSWORD") }

/** Have something done to the house: its node killed, or started again, or its agents' events forgotten. */
export async function house(act: "kill" | "start" | "forget"): Promise<void> {
  const { ok, status } = await fetch(`${required("DIALDESK_HOUSE")}/${act}`, { method: "POST" })
  assert.ok(ok, `${act}: ${status}`)
}

const closing: (() => unknown)[] = []
after(async () => {
  for (const close of closing.reverse()) await close()
})

/** Close this when the tests of the file are over. */
export function closedAfter<T>(thing: T, close: (thing: T) => unknown): T {
  closing.push(() => close(thing))
  return thing
}

let admin: Promise<Session> | null = null

/** A new agent: its name and password. */
export async function hired(): Promise<{ id: string; username: string; password: string }> {
  admin ??= Session.login(ORIGIN, ADMIN, { language: "en" })
  const username = `a${randomBytes(6).toString("hex")}`
  const password = "not-a-secret"
  const body = { username, name: username, role: "agent", password, mustChangePassword: false }
  const { user } = await (await admin).ask("POST /api/v1/admin/users", { body })
  return { id: user.id, username, password }
}

/** An agent at a desk whose line to the server can be cut. */
export async function seated(): Promise<{ session: Session; desk: Desk; events: Events; line: Line }> {
  const { username, password } = await hired()
  const line = closedAfter(await openLine(ORIGIN), (opened) => opened.close())
  const session = await Session.login(line.origin, { username, password }, { language: "en" })
  const desk = closedAfter(new Desk(session, TIMING), (opened) => opened.close())
  const events = new Events(desk)
  await desk.connect()
  return { session, desk, events, line }
}

/** A phone bound to an agent, online, and its line. */
export async function bound(
  session: Session,
  store: Store = new MemoryStore(),
  options: PhoneOptions = {},
): Promise<{ phone: Phone; line: Line; store: Store; options: PhoneOptions }> {
  const line = closedAfter(await openLine(ORIGIN), (opened) => opened.close())
  const { qrCodeData } = await session.ask("POST /api/v1/calls/device/bindQRCode", { body: {} })
  const own = { origin: line.origin, language: "en" as const, ...options, timing: { ...TIMING, ...options.timing } }
  const phone = started(await Phone.bind(store, qrCodeData, handset(), own))
  await online(phone)
  return { phone, line, store, options: own }
}

export function started(phone: Phone): Phone {
  phone.start()
  return closedAfter(phone, (opened) => opened.close())
}

export function handset() {
  return {
    deviceId: newId(),
    phoneNumber: "13800138000",
    deviceName: "Browser",
    deviceModel: "Test",
    osType: "ios" as const,
    osVersion: "19",
    appVersion: "1.0.0",
  }
}

export async function online(of: Desk | Phone): Promise<void> {
  await until(of, "onState", () => of.state.is === "online")
}

/** Wait until it is so, looking again whenever a subscription tells of something. */
export async function until<Name extends string>(
  teller: { [N in Name]: (listener: () => void) => () => void },
  subscribe: Name,
  condition: () => boolean,
): Promise<void> {
  let off = () => {}
  await within(
    new Promise<void>((resolve) => {
      off = teller[subscribe](() => {
        if (condition()) resolve()
      })
    }),
    condition,
  ).finally(() => off())
}

/** Wait, but not for ever. */
export async function within<T>(promise: Promise<T>, what: unknown = promise): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in time: ${what}`)), DEADLINE)
  })
  return await Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** What a thing tells its listeners next. */
export async function next<T>(subscribe: (listener: (told: T) => void) => () => void): Promise<T> {
  let off = () => {}
  return await within(
    new Promise<T>((resolve) => {
      off = subscribe(resolve)
    }),
  ).finally(() => off())
}

/** The events of a desk, to be looked through and waited on. */
export class Events {
  readonly heard: { type: EventType; data: ToAgent[EventType]; told: Told }[] = []
  readonly #desk: Desk

  constructor(desk: Desk) {
    this.#desk = desk
    desk.onAny((type, data, told) => this.heard.push({ type, data, told }))
  }

  /** The first event of a type, of a call if one is named: one that came, or the one to come. */
  async first<Type extends EventType>(type: Type, callId?: string): Promise<ToAgent[Type]> {
    const found = () => this.heard.find((event) => event.type === type && (!callId || of(event.data) === callId))
    await until({ look: (again) => this.#look(again) }, "look", () => found() !== undefined)
    return found()?.data as ToAgent[Type]
  }

  /** The types of the events of a call, in their order. */
  types(callId: string): EventType[] {
    return this.heard.filter(({ data }) => of(data) === callId).map(({ type }) => type)
  }

  /** Fail where numbers are missing or come twice. */
  assertWhole(): void {
    const seqs = this.heard.flatMap(({ told }) => (told.seq === undefined ? [] : [told.seq]))

    assert.deepEqual(
      seqs,
      seqs.map((_, at) => (seqs[0] ?? 0) + at),
    )
  }

  #look(again: () => void): () => void {
    again()
    return this.#desk.onAny(again)
  }
}

function of(data: object): string | undefined {
  return "callId" in data ? String(data.callId) : undefined
}

function required(name: string): string {
  const value = process.env[name]
  if (!value) throw new Error(`${name} is not set: these tests are run by tests/clients/test_sdk.py`)
  return value
}
