import assert from "node:assert/strict"
import { test } from "node:test"
import type { PhoneCall } from "../src/phone.js"
import { bound, house, next, online, seated, until } from "./ground.js"

test("a node that is killed in mid-call loses nothing that was seen or reported", async () => {
  const { session, desk, events } = await seated()
  const { phone } = await bound(session)
  const asked = next<PhoneCall>((listener) => phone.onDial(listener))
  const callId = await desk.dial({ customerPhone: "13912345678", customerName: "张三" })
  await phone.dial((await asked).callId)
  await phone.report(callId, "connected")
  await events.first("CALL_CONNECTED", callId)

  await house("kill")
  await until(desk, "onState", () => desk.state.is === "waiting")
  const shown = desk.live.calls.map(({ status }) => status)
  await phone.end(callId, { status: "connected", duration: 7 })
  const waiting = phone.view.unacked
  await house("start")
  const ended = await events.first("CALL_ENDED", callId)
  await until(phone, "onChange", () => phone.view.unacked === 0)

  assert.deepEqual(["connected"], shown)
  assert.ok(waiting > 0)
  assert.deepEqual(["connected", 7], [ended.status, ended.duration])
  assert.deepEqual(["CALL_DIALING", "CALL_CONNECTED", "CALL_ENDED"], events.types(callId))
  assert.deepEqual([], desk.live.calls)
  events.assertWhole()
})

test("where what was missed is kept no more, RESYNC says so, live is right, and what comes next is whole", async () => {
  const { session, desk, events, line } = await seated()
  const { phone } = await bound(session)
  const asked = next<PhoneCall>((listener) => phone.onDial(listener))
  const lost = await desk.dial({ customerPhone: "13912345678" })
  await phone.dial((await asked).callId)
  await events.first("CALL_DIALING", lost)
  line.up = false
  line.cut()
  await until(desk, "onState", () => desk.state.is === "waiting")
  await phone.end(lost, { status: "busy" })
  await until(phone, "onChange", () => phone.view.unacked === 0)
  await house("forget")

  line.up = true
  const { fromSeq, toSeq } = await events.first("RESYNC")
  await online(desk)
  await until(desk, "onLive", () => desk.live.calls.length === 0)
  const { calls } = await session.ask("GET /api/v1/calls")
  const askedAgain = next<PhoneCall>((listener) => phone.onDial(listener))
  const callId = await desk.dial({ customerPhone: "13912345678" })
  await phone.dial((await askedAgain).callId)
  await phone.end(callId, { status: "missed" })
  await events.first("CALL_ENDED", callId)
  const seqs = events.heard.flatMap(({ told }) => told.seq ?? [])

  assert.ok(fromSeq < toSeq, `${fromSeq} ${toSeq}`)
  assert.deepEqual([lost, "busy"], [calls[0]?.callId, calls[0]?.outcome])
  assert.deepEqual(["CALL_DIALING"], events.types(lost))
  assert.deepEqual(["CALL_DIALING", "CALL_ENDED"], events.types(callId))
  assert.ok(seqs.includes(toSeq + 1))
})
