import assert from "node:assert/strict"
import { test } from "node:test"
import type { Desk } from "../src/index.js"
import { type Binding, MemoryStore, NotACode, Phone, type PhoneCall, readCode, type Store } from "../src/phone.js"
import { bound, handset, next, ORIGIN, online, seated, started, until } from "./ground.js"

test("a code is read from a QR code's text or as a person types it, and nothing else is a code", () => {
  const qr = {
    action: "bind_device",
    serverUrl: "wss://desk.example/ws",
    token: "ddb_x",
    userId: "user_1",
    timestamp: 1,
  }

  assert.deepEqual({ token: "ddb_x", origin: "https://desk.example" }, readCode(JSON.stringify(qr)))
  assert.deepEqual({ token: "ABCD2345" }, readCode(" abcd-2345 "))
  for (const text of ["", "https://desk.example", "{", "{}", JSON.stringify({ ...qr, serverUrl: "http://x" })]) {
    assert.throws(() => readCode(text), NotACode)
  }
})

test("a phone is bound by the typed code too, and the code works once", async () => {
  const { session } = await seated()
  const { typedCode } = await session.ask("POST /api/v1/calls/device/bindQRCode", { body: {} })
  const options = { origin: ORIGIN }

  const phone = started(await Phone.bind(new MemoryStore(), typedCode.toLowerCase(), handset(), options))
  await online(phone)

  await assert.rejects(Phone.bind(new MemoryStore(), typedCode, handset(), options), { code: "BIND_TOKEN_INVALID" })
})

test("a page that is loaded anew knows its call, reports what waited, and dials nothing twice", async () => {
  const { session, desk, events } = await seated()
  const { phone, store, options, line } = await bound(session)
  const callId = await dialled(desk, phone)
  await events.first("CALL_DIALING", callId)
  await until(phone, "onChange", () => phone.view.unacked === 0)
  line.up = false
  line.cut()
  await phone.report(callId, "connected")
  await phone.close()

  line.up = true
  const again = started((await Phone.open(store, options)) as Phone)
  const before = again.view
  await events.first("CALL_CONNECTED", callId)
  const number = await again.dial(callId)
  await again.end(callId, { status: "connected" })
  await again.end(callId, { status: "missed" })
  const ended = await events.first("CALL_ENDED", callId)
  await until(again, "onChange", () => again.view.unacked === 0)

  assert.deepEqual([callId, "connected", 1], [before.current?.callId, before.current?.stage, before.unacked])
  assert.equal(null, number)
  assert.deepEqual(["connected", "phone"], [ended.status, ended.closedBy])
  assert.deepEqual([null, "connected"], [again.view.current, again.view.history[0]?.outcome])
})

test("a command whose acknowledgement was lost is shown once, and answered by what was said last", async () => {
  const { session, desk, events } = await seated()
  const { phone, line } = await bound(session)
  const shown: string[] = []
  phone.onDial((call) => shown.push(call.callId))
  let repeated = 0
  line.judge = (frame) => {
    if (!frame.includes('"DIAL_COMMAND"')) return "pass"
    repeated++
    return "repeat"
  }

  const callId = await dialled(desk, phone)
  line.cut()
  await online(phone)
  await phone.end(callId, { status: "busy" })
  const ended = await events.first("CALL_ENDED", callId)

  assert.ok(repeated > 0)
  assert.deepEqual([callId], shown)
  assert.deepEqual(["busy", "USER_BUSY"], [ended.status, ended.hangupCause])
  assert.deepEqual(["CALL_DIALING", "CALL_ENDED"], events.types(callId))
})

test("a call that nobody dials in time is reported as expired, and taken from the page", async () => {
  const { session, desk, events } = await seated()
  const { phone } = await bound(session, new MemoryStore(), { capabilities: { autoDial: true } })
  const cancelled = next<PhoneCall>((listener) => phone.onCancel(listener))

  const callId = await desk.dial({ customerPhone: "13912345678" })
  const ended = await events.first("CALL_ENDED", callId)

  assert.deepEqual(["failed", "EXPIRED", "phone"], [ended.status, ended.hangupCause, ended.closedBy])
  assert.equal(callId, (await cancelled).callId)
  assert.equal(null, await phone.dial(callId))
})

test("a call is refused for the reason that the person gives", async () => {
  const { session, desk, events } = await seated()
  const { phone } = await bound(session)
  phone.onDial((call) => void phone.refuse(call.callId, "NO_SIM"))

  const callId = await desk.dial({ customerPhone: "13912345678" })
  const ended = await events.first("CALL_ENDED", callId)

  assert.deepEqual(["failed", "NO_SIM"], [ended.status, ended.hangupCause])
})

test("a hang-up of a call under way asks the person to hang up", async () => {
  const { session, desk } = await seated()
  const { phone } = await bound(session, new MemoryStore(), { capabilities: { hangUp: true } })
  const callId = await dialled(desk, phone)
  const cancelled = next<PhoneCall>((listener) => phone.onCancel(listener))

  await desk.hangUp(callId)

  assert.deepEqual([callId, "calling"], [(await cancelled).callId, (await cancelled).stage])
})

test("while the handset is on a private call nothing is dialled on it", async () => {
  const { session, desk } = await seated()
  const { phone } = await bound(session)
  phone.handsetBusy = true

  await until(phone, "onState", () => true)
  const refusals = await refusedUntil(desk, "DEVICE_BUSY")

  assert.ok(refusals > 0)
})

test("an unbound phone forgets its binding and all that was done under it", async () => {
  const { session, desk } = await seated()
  const { phone, store } = await bound(session)
  const device = desk.live.devices[0]?.id ?? (await nextDevice(desk))

  await session.ask("DELETE /api/v1/calls/device/{device_id}", { path: { device_id: device } })
  await until(phone, "onState", () => phone.state.is === "stopped")

  assert.deepEqual(
    { is: "stopped", code: 4503 },
    { is: phone.state.is, code: "code" in phone.state && phone.state.code },
  )
  assert.equal(null, phone.view.binding)
  assert.equal(null, await Phone.open(store))
})

test("of two phones with one memory the later stays, and the other may take its place again", async () => {
  const { session } = await seated()
  const { phone, store, options } = await bound(session)
  const copy = new MemoryStore()
  await copy.write(await store.load())

  const other = started((await Phone.open(copy, options)) as Phone)
  await online(other)
  await until(phone, "onState", () => phone.state.is === "stopped")
  const code = phone.state.is === "stopped" && phone.state.code
  await phone.close()
  const again = started((await Phone.open(store, options)) as Phone)
  await online(again)
  await until(other, "onState", () => other.state.is === "stopped")

  assert.equal(4501, code)
})

test("a tab whose binding was ended leaves alone what another tab bound meanwhile", async () => {
  const { session } = await seated()
  const store = new MemoryStore()
  let write = () => {}
  const late = new Promise<void>((resolve) => {
    write = resolve
  })
  let ended = false
  const slow: Store = {
    name: store.name,
    load: () => store.load(),
    write: async (changes) => {
      if (ended) await late
      await store.write(changes)
    },
  }
  const { phone: older, options } = await bound(session, slow)
  const { qrCodeData } = await session.ask("POST /api/v1/calls/device/bindQRCode", { body: {} })

  ended = true
  const { handset: same } = older.view.binding as Binding
  const newer = started(await Phone.bind(store, qrCodeData, same, options))
  write()
  await until(older, "onState", () => older.state.is === "stopped")
  await online(newer)
  const reopened = await Phone.open(store)

  assert.equal(4501, older.state.is === "stopped" && older.state.code)
  assert.deepEqual(newer.view.binding, reopened?.view.binding)
})

test("a phone that is bound anew for its agent still brings the recording that waited", async () => {
  const { session, desk, events } = await seated()
  const { phone, line, store, options } = await bound(session)
  const callId = await dialled(desk, phone)
  await phone.report(callId, "connected")
  await phone.end(callId, { status: "connected", hasRecording: true })
  await events.first("CALL_ENDED", callId)
  line.up = false
  line.cut()
  await phone.attachRecording(callId, new Blob([wav()]))
  await phone.close()
  line.up = true

  const { qrCodeData } = await session.ask("POST /api/v1/calls/device/bindQRCode", { body: {} })
  const again = await Phone.bind(store, qrCodeData, (phone.view.binding as Binding).handset, options)
  const waiting = again.view.recordings.map((recording) => recording.callId)
  started(again)
  const ready = await events.first("RECORDING_READY", callId)

  assert.deepEqual([callId], waiting)
  assert.equal("phone", ready.source)
})

test("what a page does that is not the phone is refused, and changes nothing", async () => {
  const { session, desk } = await seated()
  const { phone, store, options } = await bound(session)
  const callId = await dialled(desk, phone)
  const other = (await Phone.open(store, options)) as Phone
  const before = other.view.current?.stage

  const acts = [other.dial(callId), other.report(callId, "connected"), other.end(callId, { status: "connected" })]
  const ends = await Promise.allSettled(acts)
  const kept = await Phone.open(store)

  assert.equal("calling", before)
  assert.deepEqual(
    acts.map(() => "InvalidStateError"),
    ends.map((end) => end.status === "rejected" && end.reason.name),
  )
  assert.equal("calling", kept?.view.current?.stage)
})

test("a second tab waits until the first lets the phone go", { skip: !globalThis.navigator?.locks }, async () => {
  const { session } = await seated()
  const { phone, store, options } = await bound(session)

  const second = started((await Phone.open(store, options)) as Phone)
  const waiting = second.state
  await phone.close()
  await online(second)

  assert.ok(waiting.is === "waiting" && waiting.why === "another tab", JSON.stringify(waiting))
})

for (const [way, uploadWhole] of [
  ["in one request", 1e9],
  ["in parts", 100],
] as const) {
  test(`a recording is kept until the server has it, and brought ${way}`, async () => {
    const { session, desk, events } = await seated()
    const { phone, line } = await bound(session, new MemoryStore(), { timing: { uploadWhole } })
    const callId = await dialled(desk, phone)
    await phone.report(callId, "connected")
    await phone.end(callId, { status: "connected", hasRecording: true })
    await events.first("CALL_ENDED", callId)
    line.up = false
    line.cut()
    const file = new Blob([wav()])

    await phone.attachRecording(callId, file)
    const waiting = phone.view.recordings
    line.up = true
    const ready = await events.first("RECORDING_READY", callId)
    await until(phone, "onChange", () => phone.view.recordings.length === 0)
    const played = await session.fetch("GET /api/v1/calls/{call_id}/recording", { path: { call_id: callId } })

    assert.deepEqual([{ callId, size: file.size }], waiting)
    assert.deepEqual(["audio/wav", file.size, "phone"], [ready.mediaType, ready.size, ready.source])
    assert.deepEqual(wav(), new Uint8Array(await played.arrayBuffer()))
    assert.equal("stored", phone.view.history[0]?.recording)
  })
}

test("a file that is no recording is refused for good, and dropped", async () => {
  const { session, desk, events } = await seated()
  const { phone } = await bound(session)
  const callId = await dialled(desk, phone)
  await phone.end(callId, { status: "connected" })
  await events.first("CALL_ENDED", callId)

  await phone.attachRecording(callId, new Blob(["a letter"]))
  await until(phone, "onChange", () => phone.view.recordings.length === 0)

  assert.deepEqual([{ callId, code: "UNSUPPORTED_AUDIO" }], phone.view.refused)
})

/** Dial, and tap on the phone. */
async function dialled(desk: Desk, phone: Phone): Promise<string> {
  const asked = next<PhoneCall>((listener) => phone.onDial(listener))
  const callId = await desk.dial({ customerPhone: "13912345678" })
  await phone.dial((await asked).callId)
  return callId
}

/** Dial until it is refused with this code: what the phone says of itself travels beside the dial. */
async function refusedUntil(desk: Desk, code: string): Promise<number> {
  for (let dials = 1; ; dials++) {
    const error = await desk.dial({ customerPhone: "13912345678" }).catch((reason: unknown) => reason)
    if (error instanceof Error && "code" in error && error.code === code) return dials
  }
}

async function nextDevice(desk: Desk): Promise<string> {
  await until(desk, "onLive", () => desk.live.devices.length > 0)
  return desk.live.devices[0]?.id ?? ""
}

/** A tenth of a second of silence: 8000 samples a second of 16 bits, one channel. */
function wav(): Uint8Array<ArrayBuffer> {
  const octets = new Uint8Array(44 + 1600)
  const view = new DataView(octets.buffer)
  for (const [at, text] of [
    [0, "RIFF"],
    [8, "WAVEfmt "],
    [36, "data"],
  ] as const) {
    for (let i = 0; i < text.length; i++) view.setUint8(at + i, text.charCodeAt(i))
  }
  view.setUint32(4, octets.length - 8, true)
  view.setUint32(16, 16, true)
  view.setUint16(20, 1, true)
  view.setUint16(22, 1, true)
  view.setUint32(24, 8000, true)
  view.setUint32(28, 16000, true)
  view.setUint16(32, 2, true)
  view.setUint16(34, 16, true)
  view.setUint32(40, octets.length - 44, true)
  return octets
}
