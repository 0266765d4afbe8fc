/** A signed-in agent: its tokens, kept and renewed, and the requests made in its name. */

import {
  type Answer,
  type Asked,
  ask,
  type Beside,
  fetchFrom,
  type JsonOperation,
  type Operation,
  type Rest,
} from "./api.js"
import { Refused, Unreachable } from "./failures.js"
import type { LoginRequest, Profile, SignedIn } from "./generated.js"
import { type Listener, Topic } from "./topic.js"

export type Language = "zh-CN" | "en"

/**
 * Where tokens outlive the page: `localStorage`, or anything like it that all pages share. A copy of it, as a duplicated
 * tab has of `sessionStorage`, ends the sign-in: the refresh token in it is used twice.
 */
export type Keep = Pick<Storage, "getItem" | "setItem" | "removeItem">

export interface SessionOptions {
  /** Left out: the tokens live as long as this object. */
  keep?: Keep
  /** The language of messages for people. */
  language?: Language
}

interface Tokens {
  accessToken: string
  refreshToken: string
  /** When to renew the access token, epoch milliseconds: at four fifths of its life. */
  renewAt: number
  user: Profile
}

const KEY = "dialdesk.session"

/**
 * One sign-in. Pages of one browser share it through `keep`: one of them renews the tokens at a time, for a refresh
 * token that is used twice ends the sign-in, and all of them notice when it is over.
 */
export class Session {
  language: Language
  readonly #keep: Keep | undefined
  readonly #ends = new Topic<[why: string]>()
  #tokens: Tokens | null
  #renewing: Promise<void> | null = null

  /** Sign in. Throws Refused (BAD_CREDENTIALS, ACCOUNT_LOCKED …) and Unreachable. */
  static async login(origin: string, who: LoginRequest, options: SessionOptions = {}): Promise<Session> {
    const headers = { "Accept-Language": options.language ?? "zh-CN" }
    return Session.from(origin, await ask(origin, "POST /api/v1/auth/login", { body: who, headers }), options)
  }

  /** Take a sign-in made elsewhere: what /auth/exchange answered the CRM's server. */
  static from(origin: string, signedIn: SignedIn, options: SessionOptions = {}): Session {
    const session = new Session(origin, tokensOf(signedIn), options)
    session.#write()
    return session
  }

  /** Go on with the sign-in that was kept, without asking the server; null where there is none. */
  static restore(origin: string, options: SessionOptions & { keep: Keep }): Session | null {
    const tokens = readTokens(options.keep)
    return tokens === null ? null : new Session(origin, tokens, options)
  }

  private constructor(
    readonly origin: string,
    tokens: Tokens,
    options: SessionOptions,
  ) {
    this.#tokens = tokens
    this.#keep = options.keep
    this.language = options.language ?? "zh-CN"
    if (this.#keep !== undefined && typeof window !== "undefined") {
      window.addEventListener("storage", (change) => {
        if (change.key === KEY || change.key === null) this.#look()
      })
    }
  }

  /** Who is signed in, as of the last renewal. */
  get user(): Profile | null {
    return this.#tokens?.user ?? null
  }

  /** Be told when the sign-in is over: by the code of the refusal, or `SIGNED_OUT`. */
  onEnd(listener: Listener<[why: string]>): () => void {
    return this.#ends.add(listener)
  }

  /** Send a request and return the object that answers it. Throws Refused and Unreachable. */
  async ask<O extends JsonOperation>(operation: O, ...rest: Rest<O>): Promise<Answer<O>> {
    return this.#authorized((headers) =>
      ask(this.origin, operation, ...([beside(rest[0], headers)] as unknown as Rest<O>)),
    )
  }

  /** Send a request and return its answer as it comes: a file. Throws Refused and Unreachable. */
  async fetch<O extends Operation>(operation: O, ...rest: Rest<O>): Promise<Response> {
    return this.#authorized((headers) =>
      fetchFrom(this.origin, operation, ...([beside(rest[0], headers)] as unknown as Rest<O>)),
    )
  }

  /** Sign out. Here it is done at once; the server is told as far as it can be reached. */
  async logout(): Promise<void> {
    this.#look()
    if (this.#tokens === null) return
    const last = new Session(this.origin, this.#tokens, { language: this.language }) // may renew, and keeps nothing
    this.#end("SIGNED_OUT")
    try {
      await last.#authorized((headers) => ask(this.origin, "POST /api/v1/auth/logout", { headers }))
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Unreachable)) throw error
    }
  }

  /** Renew the access token now. Throws Refused where the sign-in is over, and Unreachable. */
  async renew(): Promise<void> {
    const spent = this.#tokens
    if (spent === null) throw ended()
    this.#renewing ??= exclusively(`${KEY} ${this.origin}`, () => this.#trade(spent)).finally(() => {
      this.#renewing = null
    })
    return this.#renewing
  }

  async #authorized<T>(send: (headers: Record<string, string>) => Promise<T>): Promise<T> {
    this.#look()
    if (this.#tokens !== null && Date.now() >= this.#tokens.renewAt) await this.renew()
    const used = this.#credentials()
    try {
      return await send(used)
    } catch (error) {
      const stale = error instanceof Refused && (error.code === "TOKEN_EXPIRED" || error.code === "UNAUTHENTICATED")
      if (!stale) throw error
      this.#look()
      if (this.#credentials().Authorization === used.Authorization) await this.renew()
      return await send(this.#credentials())
    }
  }

  #credentials(): Record<string, string> {
    if (this.#tokens === null) throw ended()
    return { Authorization: `Bearer ${this.#tokens.accessToken}`, "Accept-Language": this.language }
  }

  /** Trade the refresh token in, unless another page did meanwhile. */
  async #trade(spent: Tokens): Promise<void> {
    this.#look()
    if (this.#tokens === null) throw ended()
    if (this.#tokens.refreshToken !== spent.refreshToken) return
    try {
      const body = { refreshToken: spent.refreshToken }
      const headers = { "Accept-Language": this.language }
      this.#tokens = tokensOf(await ask(this.origin, "POST /api/v1/auth/refresh", { body, headers }))
      this.#write()
    } catch (error) {
      if (error instanceof Refused && !error.retry) this.#end(error.code)
      throw error
    }
  }

  /** Take over what another page wrote. Another user's sign-in is the end of this one. */
  #look(): void {
    if (this.#keep === undefined || this.#tokens === null) return
    const kept = readTokens(this.#keep)
    if (kept?.user.id === this.#tokens.user.id) this.#tokens = kept
    else this.#forget("SIGNED_OUT")
  }

  #write(): void {
    this.#keep?.setItem(KEY, JSON.stringify(this.#tokens))
  }

  #end(why: string): void {
    if (this.#tokens === null) return
    this.#keep?.removeItem(KEY)
    this.#forget(why)
  }

  #forget(why: string): void {
    this.#tokens = null
    this.#ends.tell(why)
  }
}

function ended(): Refused {
  return new Refused("UNAUTHENTICATED", "the sign-in is over", false, 401)
}

function beside<O extends Operation>(asked: Asked<O> | undefined, headers: Record<string, string>): Beside {
  return { ...asked, headers: { ...asked?.headers, ...headers } }
}

function tokensOf(signedIn: SignedIn): Tokens {
  const { accessToken, refreshToken, expiresIn, user } = signedIn
  return { accessToken, refreshToken, renewAt: Date.now() + expiresIn * 800, user }
}

function readTokens(keep: Keep): Tokens | null {
  const text = keep.getItem(KEY)
  if (text === null) return null
  try {
    const kept = JSON.parse(text) as Partial<Tokens>
    return kept.accessToken && kept.refreshToken && kept.user?.id ? (kept as Tokens) : null
  } catch {
    return null // written by nobody we know: as good as nothing
  }
}

/** Do something while no other page of this browser does it; alone in the world where there are no locks. */
async function exclusively<T>(name: string, work: () => Promise<T>): Promise<T> {
  const locks = globalThis.navigator?.locks
  return locks === undefined ? await work() : await locks.request(name, work)
}
