import assert from "node:assert/strict"
import { test } from "node:test"
import { Desk, newId, Refused, Session, Stopped, TimedOut } from "../src/index.js"
import type { PhoneCall } from "../src/phone.js"
import { bound, closedAfter, hired, next, ORIGIN, online, seated, until } from "./ground.js"

test("a call is seen from the QR code to the follow-up", async () => {
  const { session, desk, events } = await seated()
  const { phone } = await bound(session)
  await until(desk, "onLive", () => desk.live.devices[0]?.onlineStatus === "online")

  const asked = next<PhoneCall>((listener) => phone.onDial(listener))
  const callId = await desk.dial({ customerPhone: "139 1234 5678", customerName: "张三", customData: { case: 7 } })
  const pending = desk.live.calls.map(({ status }) => status)
  const prompt = await asked
  const number = await phone.dial(prompt.callId)
  await events.first("CALL_DIALING", callId)
  await phone.report(callId, "ringing")
  await phone.report(callId, "connected")
  const connected = await events.first("CALL_CONNECTED", callId)
  const living = desk.live.calls.map(({ status, customerName }) => [status, customerName])
  await phone.end(callId, { status: "connected", duration: 4 })
  const ended = await events.first("CALL_ENDED", callId)
  const path = { call_id: callId }
  await session.ask("PUT /api/v1/calls/{call_id}/follow-up", { path, body: { result: "已接通", note: "回访" } })
  const record = await session.ask("GET /api/v1/calls/{call_id}", { path })

  assert.deepEqual(["pending"], pending)
  assert.deepEqual([callId, "张三", "prompt"], [prompt.callId, prompt.customerName, prompt.stage])
  assert.equal("13912345678", number)
  assert.deepEqual(["assumed", { case: 7 }], [connected.evidence, connected.customData])
  assert.deepEqual([["connected", "张三"]], living)
  assert.deepEqual(["connected", 4, "assumed"], [ended.status, ended.duration, ended.evidence])
  assert.equal(record.call.followUp?.note, "回访")
  assert.deepEqual(["CALL_DIALING", "CALL_RINGING", "CALL_CONNECTED", "CALL_ENDED"], events.types(callId))
  assert.deepEqual([], desk.live.calls)
  events.assertWhole()
})

test("events lost and repeated on the way reach the page once each, in order", async () => {
  const { session, desk, events, line } = await seated()
  const { phone } = await bound(session)
  let lost = false
  line.judge = (frame) => {
    if (lost || !frame.includes('"CALL_DIALING"')) return frame.includes('"CALL_') ? "repeat" : "pass"
    lost = true
    return "lose"
  }

  const callId = await dialled(desk, phone)
  await phone.report(callId, "connected")
  await phone.end(callId, { status: "connected" })
  await events.first("CALL_ENDED", callId)

  assert.ok(lost)
  assert.deepEqual(["CALL_DIALING", "CALL_CONNECTED", "CALL_ENDED"], events.types(callId))
  events.assertWhole()
})

test("closed and opened again before its first ticket has come, it has one socket", async (context) => {
  const { session } = await seated()
  const sockets: WebSocket[] = []
  const Usual = WebSocket
  globalThis.WebSocket = class extends Usual {
    constructor(url: string | URL) {
      super(url)
      sockets.push(this)
    }
  }
  context.after(() => {
    globalThis.WebSocket = Usual
  })
  const tickets: ((ticket: string) => void)[] = []
  const ticket = () => new Promise<string>((resolve) => tickets.push(resolve))
  const desk = closedAfter(new Desk({ origin: session.origin, ticket }), (opened) => opened.close())

  const first = desk.connect()
  desk.close()
  const second = desk.connect()
  for (const told of tickets) told((await session.ask("POST /api/v1/auth/ws-ticket")).ticket)
  await Promise.all([first, second])

  assert.equal(2, tickets.length)
  assert.equal(1, sockets.length)
})

test("asked twice at the same time under one key, both are told of the same call", async () => {
  const { session, desk } = await seated()
  await bound(session)
  const key = newId()

  const asked = [1, 2].map(() => desk.dial({ customerPhone: "13912345678" }, { key }))
  const [one, other] = await Promise.all(asked)

  assert.equal(one, other)
})

test("what happened while the line was down comes after it, marked as past, and live is right", async () => {
  const { session, desk, events, line } = await seated()
  const { phone } = await bound(session)
  const callId = await dialled(desk, phone)
  await events.first("CALL_DIALING", callId)
  line.up = false
  line.cut()
  await until(desk, "onState", () => desk.state.is === "waiting")

  await phone.report(callId, "connected")
  await until(phone, "onChange", () => phone.view.unacked === 0)
  line.up = true
  await online(desk)
  await events.first("CALL_CONNECTED", callId)
  const past = events.heard.find(({ type }) => type === "CALL_CONNECTED")?.told.past
  const living = desk.live.calls.map(({ status }) => status)
  await phone.end(callId, { status: "connected" })
  await events.first("CALL_ENDED", callId)

  assert.equal(true, past)
  assert.deepEqual(["connected"], living)
  assert.equal(false, events.heard.at(-1)?.told.past)
  events.assertWhole()
})

test("a dial whose answer was lost is asked again under its id: one call", async () => {
  const { session, desk, line } = await seated()
  await bound(session)
  line.judge = (frame) => {
    if (!frame.includes('"DIAL_ACCEPTED"')) return "pass"
    line.judge = () => "pass"
    setImmediate(() => line.cut())
    return "lose"
  }

  const callId = await desk.dial({ customerPhone: "13912345678" })
  const { calls } = await session.ask("GET /api/v1/calls")

  assert.deepEqual(
    [callId],
    calls.map((call) => call.callId),
  )
})

test("one key is one call, by whichever way it is asked for", async () => {
  const { session, desk } = await seated()
  await bound(session)
  const key = newId()

  const first = await desk.dial({ customerPhone: "13912345678" }, { key })
  const second = await desk.dial({ customerPhone: "13912345678" }, { key })

  assert.equal(first, second)
})

test("a refused dial tells its code and words for people", async () => {
  const { desk } = await seated()

  const error = await desk.dial({ customerPhone: "13912345678" }).catch((reason: unknown) => reason)

  assert.ok(error instanceof Refused)
  assert.equal("NO_DEVICE", error.code)
})

test("a dial that nobody answers is given up", async () => {
  const { session, desk, line } = await seated()
  await bound(session)
  line.judge = () => "lose"

  await assert.rejects(desk.dial({ customerPhone: "13912345678" }, { timeout: 200 }), TimedOut)
})

test("a call that is hung up before it was dialled is cancelled on the phone", async () => {
  const { session, desk, events } = await seated()
  const { phone } = await bound(session)
  const asked = next<PhoneCall>((listener) => phone.onDial(listener))
  const callId = await desk.dial({ customerPhone: "13912345678" })
  await asked

  const cancelled = next<PhoneCall>((listener) => phone.onCancel(listener))
  await desk.hangUp(callId)
  const ended = await events.first("CALL_ENDED", callId)

  assert.equal("cancelled", ended.status)
  assert.deepEqual([callId, "ended"], [(await cancelled).callId, (await cancelled).stage])
  assert.equal(null, await phone.dial(callId))
})

test("a page of a CRM gets in by tickets that its server asks for, one for each socket", async () => {
  const { username, password } = await hired()
  const session = await Session.login(ORIGIN, { username, password })
  let asked = 0
  const ticket = async () => {
    asked++
    if (asked === 1) throw new Error("the CRM's server is away")
    return (await session.ask("POST /api/v1/auth/ws-ticket")).ticket
  }
  const desk = closedAfter(new Desk({ origin: ORIGIN, ticket }, { backoffBase: 20 }), (opened) => opened.close())

  const welcome = await desk.connect()

  assert.equal(2, asked)
  assert.equal(0, welcome.lastSeq)
})

test("a page that may not come in is told at once, and does not come again", async () => {
  const session = await Session.login(ORIGIN, await hired().then(({ username, password }) => ({ username, password })))
  await session.logout()
  const desk = new Desk(session)

  await assert.rejects(desk.connect(), Stopped)
  await assert.rejects(desk.dial({ customerPhone: "13912345678" }), Stopped)
  assert.equal("stopped", desk.state.is)
})

test("a listener that fails harms no other", async () => {
  const failures: unknown[] = []
  globalThis.reportError = (error: unknown) => void failures.push(error)
  const { desk, events, session } = await seated()
  desk.on("DEVICE_BOUND", () => {
    throw new Error("a fault of the page")
  })

  await bound(session)
  await events.first("DEVICE_BOUND")

  assert.deepEqual(
    ["a fault of the page"],
    failures.map((error) => (error as Error).message),
  )
})

/** Dial, and tap on the phone. */
async function dialled(desk: Desk, phone: Awaited<ReturnType<typeof bound>>["phone"]): Promise<string> {
  const asked = next<PhoneCall>((listener) => phone.onDial(listener))
  const callId = await desk.dial({ customerPhone: "13912345678" })
  await phone.dial((await asked).callId)
  return callId
}
