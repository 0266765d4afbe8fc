import assert from "node:assert/strict"
import { test } from "node:test"
import { Desk, type Keep, Refused, Session, Unreachable } from "../src/index.js"
import { closedAfter, hired, next, ORIGIN, seated, until } from "./ground.js"

test("a wrong password is refused, in words of the language that was asked for", async () => {
  const { username } = await hired()

  const english = await refusal(Session.login(ORIGIN, { username, password: "wrong" }, { language: "en" }))
  const chinese = await refusal(Session.login(ORIGIN, { username, password: "wrong" }))

  assert.deepEqual(["BAD_CREDENTIALS", 401, false], [english.code, english.status, english.retry])
  assert.equal("Wrong user name or password", english.message)
  assert.equal("用户名或密码错误", chinese.message)
})

test("a server that is not there is Unreachable, not Refused", async () => {
  await assert.rejects(Session.login("http://127.0.0.1:1", { username: "a", password: "b" }), Unreachable)
})

test("a request that is not answered in time, or given up, ends", async () => {
  const { session, line } = await seated()
  const reason = new Error("given up")
  line.stalled = true

  await assert.rejects(session.ask("GET /api/v1/me", { timeout: 100 }), Unreachable)
  await assert.rejects(session.ask("GET /api/v1/me", { signal: AbortSignal.abort(reason) }), reason)
})

test("a sign-in that was kept is taken up again without a request, and asks in its user's name", async () => {
  const keep = memory()
  const who = await hired()
  await Session.login(ORIGIN, credentials(who), { keep, language: "en" })

  const restored = Session.restore(ORIGIN, { keep, language: "en" })
  const me = await restored?.ask("GET /api/v1/me")

  assert.equal(who.username, restored?.user?.username)
  assert.equal(who.id, me?.user?.id)
})

test("an access token that has run out is renewed once, however many ask; another page takes the new one over", async () => {
  const keep = memory()
  const session = await Session.login(ORIGIN, credentials(await hired()), { keep, language: "en" })
  const other = Session.restore(ORIGIN, { keep, language: "en" })
  const before = aged(keep)

  await Promise.all([session.ask("GET /api/v1/me"), session.ask("GET /api/v1/me"), session.ask("GET /api/v1/me")])
  const after = keep.getItem(KEY)
  await other?.ask("GET /api/v1/me")

  assert.notEqual(before, after)
  assert.equal(after, keep.getItem(KEY))
})

test("an access token that the server does not take is renewed, and the request sent again", async () => {
  const keep = memory()
  const session = await Session.login(ORIGIN, credentials(await hired()), { keep, language: "en" })
  keep.setItem(KEY, JSON.stringify({ ...JSON.parse(keep.getItem(KEY) ?? ""), accessToken: "not.a.token" }))

  const me = await session.ask("GET /api/v1/me")

  assert.equal(session.user?.id, me.user?.id)
})

test("a refresh token used twice ends the sign-in, and its pages learn of it", async () => {
  const keep = memory()
  const session = await Session.login(ORIGIN, credentials(await hired()), { keep, language: "en" })
  const first = keep.getItem(KEY) ?? ""
  await session.renew()
  keep.setItem(KEY, first)
  aged(keep)
  const end = next<string>((listener) => session.onEnd(listener))

  const error = await refusal(session.ask("GET /api/v1/me"))

  assert.equal("REFRESH_REUSED", error.code)
  assert.equal("REFRESH_REUSED", await end)
  assert.deepEqual([null, null], [session.user, keep.getItem(KEY)])
})

test("signing out ends the sign-in of every page, and its socket for good", async () => {
  const keep = memory()
  const session = await Session.login(ORIGIN, credentials(await hired()), { keep, language: "en" })
  const other = Session.restore(ORIGIN, { keep, language: "en" })
  const desk = closedAfter(new Desk(session), (opened) => opened.close())
  await desk.connect()

  await session.logout()
  await until(desk, "onState", () => desk.state.is === "stopped")
  const error = await refusal(other?.ask("GET /api/v1/me"))

  assert.ok(desk.state.is === "stopped" && desk.state.code === 4503, JSON.stringify(desk.state))
  assert.equal("UNAUTHENTICATED", error.code)
})

test("signing out is done at once, also where the server cannot be reached", async () => {
  const { session, line } = await seated()
  const end = next<string>((listener) => session.onEnd(listener))
  line.up = false
  line.cut()

  const told = session.logout()

  assert.equal(null, session.user)
  assert.equal("SIGNED_OUT", await end)
  await told
})

test("a request that does something is done once under its key, and files are fetched as they come", async () => {
  const session = await Session.login(ORIGIN, credentials(await hired()), { language: "en" })
  const missing = session.fetch("GET /api/v1/calls/{call_id}/recording", { path: { call_id: "call_no/body" } })

  const error = await refusal(missing)
  const page = await session.ask("GET /api/v1/calls", { query: { limit: 5, outcome: ["missed", "busy"] } })

  assert.deepEqual(["NOT_FOUND", 404], [error.code, error.status])
  assert.deepEqual([], page.calls)
})

const KEY = "dialdesk.session"

function memory(): Keep {
  const kept = new Map<string, string>()
  return {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, value),
    removeItem: (key) => void kept.delete(key),
  }
}

/** Make the kept tokens due for renewal. Returns what is kept then. */
function aged(keep: Keep): string {
  const text = JSON.stringify({ ...JSON.parse(keep.getItem(KEY) ?? ""), renewAt: 0 })
  keep.setItem(KEY, text)
  return text
}

function credentials({ username, password }: { username: string; password: string }) {
  return { username, password }
}

async function refusal(promise: Promise<unknown> | undefined): Promise<Refused> {
  const error = await promise?.then(
    () => null,
    (reason: unknown) => reason,
  )
  assert.ok(error instanceof Refused, String(error))
  return error
}
